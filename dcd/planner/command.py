"""The command that starts the process from which planners are forked.

For the process that starts it, which may be small and privileged: standard library and `store.host` only.

Source: setpriv(1), unshare(1).
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from store.host.identity import Identity
from store.host.interpreter import module_command, module_environment
from store.host.mounts import can_restrict
from store.host.system_paths import settings

_KEPT = ("LANG", "LANGUAGE", "PATH", "TMPDIR", "TZ")
_KEPT_BEGINNINGS = ("LC_", "PYTHON")
_APT = Path("/etc/apt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What planners see of the host beside its software and settings: the directory of captured files, of
    which each planner sees those of its question; the paths that the configuration names, with the places of
    modules; and paths that questions are about. Of the latter, only secrets and what everybody can read are
    shown. `hidden` are the state directory and the socket, which are never seen, even inside these."""

    blobs: Path
    hidden: tuple[Path, ...]
    configured: tuple[Path, ...] = ()
    asked: tuple[Path, ...] = ()


def command(descriptor: int, identity: Identity, sight: Sight) -> list[str]:
    """The command, which inherits its end of a socket as `descriptor`. Run it with `environment()`, standard
    input from /dev/null, in a session of its own.

    If `identity` is separate, run it as root: it starts in new namespaces, makes a view of its own, becomes
    the identity, and all in the namespaces end with the thread that started it. Where the host cannot give it
    a view (`gives_views`), it becomes the identity only. If `identity` is not separate, it runs as its
    caller.
    """
    inner = [*module_command("dcd.planner"), str(descriptor)]
    if not identity.separate:
        return inner
    inner.append(json.dumps({"identity": asdict(identity), "sight": asdict(sight)}, default=str))
    if not gives_views():
        return inner
    return [
        *("setpriv", "--pdeathsig", "SIGKILL"),
        *("unshare", "--mount", "--propagation=slave", "--pid", "--ipc", "--uts"),
        *("--fork", "--kill-child=SIGKILL"),
        *inner,
    ]


def gives_views() -> bool:
    """Whether this host has what a view takes: Linux 5.12, setpriv(1) and unshare(1)."""
    return can_restrict() and all(map(shutil.which, ("setpriv", "unshare")))


def parse(text: str) -> tuple[Identity, Sight]:
    """The identity and the sight of a command's last argument."""
    given = json.loads(text)
    identity, sight = given["identity"], given["sight"]
    return (
        Identity(identity["uid"], identity["gid"], tuple(identity["groups"])),
        Sight(
            blobs=Path(sight["blobs"]),
            hidden=tuple(map(Path, sight["hidden"])),
            configured=tuple(map(Path, sight["configured"])),
            asked=tuple(map(Path, sight["asked"])),
        ),
    )


def environment(inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of the command: locale, search paths and proxies, but none of the daemon's secrets."""
    kept = {
        name: value
        for name, value in inherited.items()
        if name in _KEPT or name.startswith(_KEPT_BEGINNINGS) or name.lower().endswith("_proxy")
    }
    return {**kept, **module_environment()}


def settings_state() -> tuple[object, ...]:
    """A value that changes when a view made now would have other settings of the host: apt's are copied
    into it, and a file that was replaced stays as it was."""
    return tuple(_states())


def _states() -> Iterator[object]:
    if sys.platform != "linux":
        return
    for path in settings():
        if not path.is_dir():
            found = path.stat()
            yield path, found.st_dev, found.st_ino
    for directory, _, names in os.walk(_APT):
        for path in (Path(directory), *(Path(directory, name) for name in names)):
            try:
                found = path.stat()
            except OSError:
                continue
            yield path, found.st_ino, found.st_mtime_ns, found.st_ctime_ns
