"""The commands of dcctl, one module each.

A command module has `HELP` (a line for the list), `DESCRIPTION` (a paragraph), `configure(parser)` and
`run(args)`, which returns the exit code. `args.socket` and `args.json` are always there. To add a command,
add its module and its name here (a hyphen in the name is an underscore in the module's).
"""

NAMES = (
    "submit",
    "resume",
    "retry",
    "pause",
    "cancel",
    "rm",
    "status",
    "list",
    "follow",
    "events",
    "logs",
    "artifacts",
    "checkpoints",
    "shell",
    "doc",
    "graph",
    "validate",
    "plan",
    "checkpoint-types",
    "migrate",
    "df",
    "gc",
    "backup",
    "config",
    "metrics",
    "doctor",
    "version",
)
"""The commands, in the order of the help."""
