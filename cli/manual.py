"""Sections of dcctl(1) that are not in the parser: examples, exit status, environment, files, see also.

Plain data; `cli.generate` turns it into roff. A test compares the exit statuses with
docs/reference/exit-codes.md.
"""

EXAMPLES = (
    ("Write a manifest to begin with, build its image, and have the files in a directory:",
     "dcctl init live -o live.xml; dcctl build live.xml -o out"),
    ("Build it with the daemon of a server, and watch it:", "dcctl submit image.xml --follow"),
    ("See what would run, and why:", "dcctl plan image.xml"),
    ("Find out why a build failed, and inspect the workspace of the failed attempt:",
     "dcctl status k2p7; dcctl logs k2p7; dcctl shell k2p7"),
    ("Continue after an edit of the manifest or of a file that it names:",
     "dcctl resume k2p7 --manifest image.xml --follow"),
    ("Watch all builds in a browser:", "dcctl web --open"),
    ("Remove builds that failed more than a week ago:", "dcctl rm --failed --older-than 7d"),
    ("Free space, but keep 50 GiB of layers:", "dcctl gc --max-bytes 50G"),
)  # fmt: skip
"""The purpose of each example, and its command line."""

EXIT_STATUS = {
    0: "success; with --follow, the build completed",
    1: "an error of the daemon or of dcctl itself",
    2: "usage: an unknown option, a missing argument, a malformed value",
    3: "the build failed",
    4: "the build is paused",
    5: "the build was cancelled",
    6: "refused in this state",
    7: "not found: no such build, checkpoint, log or artifact",
    8: "invalid manifest",
    9: "the daemon cannot be reached, or cannot serve now",
    10: "permission denied",
    11: "the host lacks what the build needs: a tool, space, a reachable mirror",
    12: "reproduce: the second build is different",
    20: "the signing key cannot be used",
    21: "verify: the provenance or its signature is altered",
    22: "verify: the provenance is signed by another key",
    23: "verify: the provenance was made for another file",
    24: "verify: nothing is proved",
    25: "verify: another builder made the file",
    26: "rebuild: the products differ (BAD)",
    27: "rebuild: the export is altered or damaged",
    28: "the build failed: there is no package database in the image, so it has no SBOM",
    30: "verify --layers: the files of a layer were changed",
    130: "interrupted by Ctrl-C; a followed build continues",
    141: "the reader of the output closed it",
}

ENVIRONMENT = {
    "DCD_SOCKET": "the daemon's socket, when there is no --socket",
    "SOURCE_DATE_EPOCH": "the build's time, when there is no --source-date-epoch",
    "XDG_STATE_HOME": "its directory dcd has the state of the private daemon of dcctl build and lock; "
    "~/.local/state by default",
    "NO_COLOR": "no colours if set and not empty",
    "TERM": "colours and status lines need a terminal other than dumb",
    "SHELL": "the shell that dcctl shell runs",
}

FILES = {
    "/run/dcd/dcd.sock": "the service's socket; on illumos /var/run/dcd/dcd.sock",
    "~/.local/state/dcd": "the state of a private daemon, which dcctl build starts where none answers",
    "/etc/dcd/dcd.toml": "the daemon's settings; on illumos they are SMF properties",
    "/var/lib/dcd": "the daemon's state: event log, layers, artifacts, logs",
}

SEE_ALSO = ("dcd(8)", "dcd.toml(5)")


def sections() -> dict[str, str]:
    """The sections in roff, by heading, in the order of man-pages(7)."""
    examples = "".join(
        f".PP\n{_roff(text)}\n.PP\n.in +4n\n.EX\n{_roff(line)}\n.EE\n.in\n"
        for text, line in EXAMPLES
    )
    return {
        "EXIT STATUS": _list(EXIT_STATUS),
        "ENVIRONMENT": _list(ENVIRONMENT),
        "FILES": _list(FILES),
        "EXAMPLES": examples,
        "SEE ALSO": _roff(", ".join(SEE_ALSO)),
    }


def _list(items: dict[int, str] | dict[str, str]) -> str:
    return "".join(f".TP\n.B {_roff(str(name))}\n{_roff(text)}\n" for name, text in items.items())


def _roff(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
