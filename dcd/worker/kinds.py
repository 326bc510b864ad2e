"""The kinds of workers, and which one a host uses.

`namespaces`: each worker is the first process of Linux namespaces of its own, with a root of its own
(`dcd.worker.isolation`). `portable`: a worker is a session of its own below a supervisor
(`dcd.worker.supervisor`), on illumos in a process contract, on the host's own file systems and network. A
portable worker hides nothing of the host from a checkpoint; it only makes sure that nothing of an attempt
outlives it.

Standard library and `store.host` only, for the launcher.
"""

import sys
from enum import StrEnum

from store.host import tools


class Kind(StrEnum):
    """A kind of workers, as the setting `worker` names it."""

    NAMESPACES = "namespaces"
    PORTABLE = "portable"


AUTO = "auto"
"""The setting that leaves the choice to the host."""

TOOLS = {
    Kind.NAMESPACES: ("setpriv", "unshare"),
    Kind.PORTABLE: ("ctrun",) if sys.platform == "sunos5" else (),
}
"""The tools with which workers of a kind are started."""

NO_MOUNTS = (
    "it mounts file systems or runs programs inside the image, which needs a mount namespace; "
    "workers of this host are portable"
)
"""Why a checkpoint that needs namespaces cannot run in a portable worker."""

MOUNTS_REMEDY = (
    "run it on a Linux host with util-linux and worker = namespaces, or leave these checkpoints out"
)


def chosen_kind(setting: str) -> tuple[Kind, str]:
    """The kind of workers for a value of the setting `worker`, and why.

    `auto` never falls back to less isolation because namespaces cannot be made at the moment: it uses
    them on Linux if setpriv(1) and unshare(1) are installed.
    """
    if setting != AUTO:
        return Kind(setting), "the configuration says so"
    if sys.platform != "linux":
        return Kind.PORTABLE, "this system has no Linux namespaces"
    if absent := tools.missing(TOOLS[Kind.NAMESPACES]):
        return Kind.PORTABLE, f"{' and '.join(absent)} of util-linux are not installed"
    return Kind.NAMESPACES, "this is Linux with setpriv and unshare"
