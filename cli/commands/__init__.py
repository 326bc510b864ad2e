"""The commands of dcctl, one module each.

The docstring of a command's module is its help: a line for the list, behind a colon, and a paragraph.
`run(args)` returns the exit code, or None for success; `configure(parser)` adds arguments, if there are
any besides `args.socket` and `args.json`. To add a command, add its module and its name here (a hyphen
in the name is an underscore in the module's).
"""

NAMES = (
    *("build", "submit", "resume", "retry", "pause", "move", "cancel", "rm"),
    *("status", "list", "top", "follow", "web", "events", "logs", "checkpoints"),
    *("diff", "bisect", "artifacts", "download"),
    *("provenance", "verify", "reproduce", "export", "rebuild"),
    *("shell", "doc", "graph"),
    *("init", "validate", "plan", "lock", "checkpoint-types", "migrate"),
    *(
        "df",
        "gc",
        "backup",
        "config",
        "notify",
        "metrics",
        "doctor",
        "hosts",
        "completion",
        "version",
    ),
)
"""The commands, in the order of the help."""
