"""The most that a worker is given, whatever the daemon's main process asks for.

The main process has checked who may submit what; the launcher does not know people. So it allows what the
project's own checkpoints can need, in `CAPABILITIES`, `DEVICES` and `WRITES`, and more only to code of
users, on a server whose configuration lets users run code (`host_code`). An attacker in the main process
then has the rights of these users. On a server with a signing key, code of users gets no right that leads
past what is hidden from workers: the key is out of its reach. A test compares the tables with the needs of
all checkpoints. Portable workers are not confined to what they are shown, so they get less: nothing is
mounted, and paths of the host that others can replace are not read.
"""

import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from dcd.launcher.orders import AttemptOrder, Bounds
from dcd.worker.request import Grants
from statemachine.errors import PermissionDenied, UsageError
from statemachine.plan import Stage
from statemachine.variation import check_variation
from store.host.capabilities import CHROOT, MOUNTS
from store.host.devices import ALL_DEVICES
from store.host.regular import is_open_to_all
from store.host.secret_files import DIRECTORIES, PREFIX, is_among_secrets

_NEVER_WRITTEN = tuple(map(Path, ("/boot", "/dev", "/etc", "/proc", "/sys", "/usr")))

T = TypeVar("T")

_OWN = "dcd.checkpoints."

CAPABILITIES = frozenset(MOUNTS)
"""What any of the project's checkpoints needs."""

DEVICES = {
    f"{_OWN}vm.": {ALL_DEVICES, "kvm", "vboxdrv", "vboxdrvu", "vboxnetctl"},
    f"{_OWN}media.verify_boot": {"kvm", "vboxdrv", "vboxdrvu", "vboxnetctl"},
}
"""By the beginning of the module's name."""

WRITES = {f"{_OWN}vm.install_iscsi": {Path("/sys/kernel/config/target")}}

PUBLISHING = f"{_OWN}publish.directory"
"""The module that writes into directories of the setting `publish_directories`."""

_ENVIRONMENT = re.compile(r"SOURCE_DATE_EPOCH|(https?|ftp|no|all)_proxy", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

_NEVER_READ = tuple(
    map(Path, ("/boot", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/var/lib"))
)


def check_names(order: AttemptOrder) -> None:
    """Raise PermissionDenied for a name that is none, or a variable that tools get from nobody."""
    for name in (order.build, order.checkpoint, order.workspace):
        _require(_NAME.fullmatch(name), f"the name {name!r}")
    lists = order.locked.lists if order.locked else ()
    for digest in (*order.inputs.values(), *filter(None, (order.below,)), *lists):
        _require(_DIGEST.fullmatch(digest), f"the digest {digest!r}")
    for name in order.environment:
        _require(_ENVIRONMENT.fullmatch(name), f"the variable {name!r}")
    _require(order.stage in set(Stage), f"the stage {order.stage!r}")
    if order.variation is not None:
        try:
            check_variation(order.variation)
        except UsageError as error:
            _require(False, error.brief)


def granted(order: AttemptOrder, bounds: Bounds) -> Grants:
    """What the worker of an attempt is given. Raises PermissionDenied for what exceeds the bounds."""
    wanted, module = order.wanted, order.mod_path.replace("/", ".")
    if bounds.portable:
        _require(
            "SYS_ADMIN" not in wanted.capabilities, f"mounts in a portable worker, for {module}"
        )
    if wanted.host_code:
        _require(bounds.host_code, "code of users on this server (the setting host_code is empty)")
        if bounds.keys:
            _require(
                set(CHROOT).issuperset(wanted.capabilities) and ALL_DEVICES not in wanted.devices,
                "code of users that mounts, or uses all devices, on a server with a signing key",
            )
    else:
        _require(
            CAPABILITIES.issuperset(wanted.capabilities), f"{wanted.capabilities} for {module}"
        )
        _require(_of(DEVICES, module).issuperset(wanted.devices), f"{wanted.devices} for {module}")
        writes = set(wanted.writes)
        if module == PUBLISHING:
            writes = {path for path in writes if not _may_publish(path, bounds)}
        _require(_of(WRITES, module).issuperset(writes), f"{wanted.writes} for {module}")
    named = {str(path): real for path in wanted.reads if (real := _real(path)) is not None}
    for name, real in named.items():
        _require(_everyone_may_read(real), f"reading {name}")
        if bounds.portable and not (wanted.host_code or bounds.private):
            # In namespaces the worker is shown what was checked here; this one looks the name up again.
            stays = _only_root_changes(Path(name)) and _only_root_changes(real)
            _require(stays, f"reading {name}, which other users can replace, in a portable worker")
    for path in (*named.values(), *(path.resolve() for path in wanted.writes)):
        _require(not _leads_to(path, bounds.keys), f"a way to the signing key: {path}")
    secrets = [Path(name) for name in wanted.secrets if _is_secret_file(name)]
    # The way to others, over links elsewhere, may change.
    kept = [path for path in secrets if _is_below_secrets(path)]
    named |= {
        str(path): real
        for path in secrets
        if path not in kept and (real := _real(path)) is not None and _is_below_secrets(real)
    }
    return Grants(
        capabilities=wanted.capabilities,
        devices=wanted.devices,
        reads=bounds.paths,
        named=named,
        writes=wanted.writes,
        secrets=tuple(kept),
        variables={
            name: os.environ[name]
            for name in wanted.secrets
            if name.startswith(PREFIX) and name in os.environ
        },
        hidden=bounds.hidden,
        host_code=wanted.host_code,
        open_files=bounds.open_files,
        memory_bytes=bounds.memory_bytes,
        processes=bounds.processes,
        total_memory_bytes=bounds.total_memory_bytes,
    )


def _may_publish(path: Path, bounds: Bounds) -> bool:
    """Whether products may be put into a directory: it is in one that the configuration names, with no link
    on the way, or nobody but its starter uses the daemon. A portable worker looks the name up again."""
    real = _real(path)
    if real != path or any(
        path.is_relative_to(place) for place in (*_NEVER_WRITTEN, *bounds.hidden)
    ):
        return False
    if bounds.portable and not (bounds.private or _only_root_changes(path)):
        return False
    allowed = [each.resolve() for each in bounds.publish]
    return bounds.private or any(path.is_relative_to(each) for each in allowed)


def _leads_to(path: Path, keys: Iterable[Path]) -> bool:
    real = [key.resolve() for key in keys]
    return any(key.is_relative_to(path) or path.is_relative_to(key) for key in real)


def _of(table: Mapping[str, set[T]], module: str) -> set[T]:
    """What a table has for a module; for one that has another name of the original's, all of it."""
    own = module.startswith(_OWN)
    return {
        each
        for start, found in table.items()
        if not own or module.startswith(start)
        for each in found
    }


def _real(path: Path) -> Path | None:
    """A path of the host without links; None when it does not exist, and so is not shown."""
    try:
        return path.resolve(strict=True)
    except OSError:
        return None


def _everyone_may_read(real: Path) -> bool:
    """Whether a path without links is one that no permissions protect. A worker that is shown it could read
    everything in it."""
    if any(real.is_relative_to(place) or place.is_relative_to(real) for place in _NEVER_READ):
        return False
    return is_open_to_all(real)


def _only_root_changes(path: Path) -> bool:
    """Whether no other user can make a path lead to something else: it and all directories above belong to
    root, and others write only to those in which each removes just his own files."""
    for place in (path, *path.parents):
        try:
            found = place.lstat()
        except OSError:
            return False
        link = stat.S_ISLNK(found.st_mode)
        open_to_others = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX and not link
        if found.st_uid != 0 or open_to_others:
            return False
    return True


def _is_secret_file(name: str) -> bool:
    return name.startswith("/") and is_among_secrets(Path(name).resolve())


def _is_below_secrets(path: Path) -> bool:
    """Whether the path itself leads through directories that only root changes."""
    places = (*DIRECTORIES, *(place.resolve() for place in DIRECTORIES))
    return ".." not in path.parts and any(path.is_relative_to(place) for place in places)


def _require(allowed: object, what: str) -> None:
    if not allowed:
        raise PermissionDenied(
            f"the launcher refuses {what}",
            "it is beyond what the configuration allows a worker",
            "see docs/explanation/security.md; change the configuration and restart the daemon",
        )
