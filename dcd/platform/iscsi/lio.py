"""`Lio`: the target of the Linux kernel, through configfs, which needs no tool and shows no command line.

The target outlives the process that created it; it is released by its name. The directories below `CONFIGFS`
are objects of the kernel, with their attributes as files: creating or removing a directory creates or removes
an object. Written from the kernel's documentation and the tree that targetcli creates; never run on a kernel
with this target, only against a substitute.
Source: Linux, Documentation/target/scripts.rst, drivers/target/iscsi/iscsi_target_configfs.c.
"""

import contextlib
import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from dcd.platform.iscsi.interface import Export, new_export
from statemachine.errors import CheckpointError, DcdError, Unprepared

CONFIGFS = Path("/sys/kernel/config/target")


class Lio:
    """Targets of the kernel."""

    kind: ClassVar[str] = "iscsi-lio"
    tools: ClassVar[tuple[str, ...]] = ()

    def __init__(self, directory: Path) -> None:
        """Needs no files of its own."""

    @contextlib.contextmanager
    def export(self, file: Path, name: str) -> Iterator[Export]:
        """Serve a file; see `Target.export`."""
        if not CONFIGFS.is_dir():
            raise Unprepared(
                "the kernel's iSCSI target is not available",
                f"there is no {CONFIGFS}",
                'load the modules target_core_file and iscsi_target_mod, or use target "tgt"',
            )
        export = new_export(name)
        try:
            try:
                _make(file, export)
            except OSError as error:
                raise _failed(error, export) from error
            yield export
        finally:
            Lio.release(name)

    @staticmethod
    def release(name: str) -> None:
        """Withdraw a target; see `Target.release`."""
        portal_group, store = _portal_group(name), _store(name)
        try:
            if portal_group.is_dir():
                (portal_group / "enable").write_text("0")
            for link in portal_group.glob("lun/lun_*/*"):
                if link.is_symlink():
                    link.unlink()
            for made in (
                *portal_group.glob("lun/lun_*"),
                *portal_group.glob("np/*"),
                portal_group,
                portal_group.parent,
                store,
            ):
                if made.is_dir():
                    made.rmdir()
        except OSError as error:
            raise DcdError(
                f"the iSCSI target {name} cannot be withdrawn",
                str(error),
                "stop what still uses it, then remove it: targetcli /iscsi delete "
                f"{name}; targetcli /backstores/fileio delete {store.name}",
            ) from error


def _portal_group(name: str) -> Path:
    return CONFIGFS / "iscsi" / name / "tpgt_1"


def _store(name: str) -> Path:
    """The object for the file; its name is short and cannot be mistaken for a path."""
    return CONFIGFS / "core/fileio_0" / f"dcd-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _make(file: Path, export: Export) -> None:
    store, group = _store(export.target), _portal_group(export.target)
    store.parent.mkdir(exist_ok=True)
    store.mkdir()
    size = file.stat().st_size
    (store / "control").write_text(f"fd_dev_name={file.absolute()},fd_dev_size={size}")
    (store / "enable").write_text("1")
    group.parent.mkdir()
    group.mkdir()
    for attribute, value in (
        ("attrib/authentication", "1"),
        # An initiator of any name that knows the secret may connect and write.
        ("attrib/generate_node_acls", "1"),
        ("attrib/demo_mode_write_protect", "0"),
        ("auth/userid", export.chap.user),
        ("auth/password", export.chap.secret),
    ):
        (group / attribute).write_text(value)
    unit = group / f"lun/lun_{export.lun}"
    unit.mkdir()
    (unit / store.name).symlink_to(store)
    (group / f"np/{export.address}:{export.port}").mkdir()
    (group / "enable").write_text("1")


def _failed(error: OSError, export: Export) -> DcdError:
    if error.errno == errno.EADDRINUSE:
        return Unprepared(
            f"port {export.port} of {export.address} is in use",
            f"the kernel says: {error.strerror}",
            f"find what listens there with `ss -tlnp 'sport = :{export.port}'` and stop it",
        )
    return CheckpointError("the kernel does not serve the file through iSCSI", str(error))
