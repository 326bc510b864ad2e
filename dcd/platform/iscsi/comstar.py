"""`Comstar`: the target of illumos, through itadm(8) and stmfadm(8).

The target outlives the process that created it; the names of all its parts follow from its own name, by which
it is released. The secret is passed in a file of the attempt, never on a command line. Written from the
manual pages; never run on illumos, only against substitutes for both tools.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from dcd.platform.iscsi.interface import Export, initiator_name, new_export
from statemachine.errors import DcdError, Unprepared
from store.host.process import ToolFailed, run

_GUID_PREFIX = "600144F0"
"""NAA 6 and the vendor that COMSTAR itself uses in the ids of its units."""


class Comstar:
    """Targets of COMSTAR."""

    kind: ClassVar[str] = "iscsi-comstar"
    tools: ClassVar[tuple[str, ...]] = ("itadm", "stmfadm")

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextlib.contextmanager
    def export(self, file: Path, name: str) -> Iterator[Export]:
        """Serve a file; see `Target.export`."""
        export = new_export(name)
        try:
            self._make(file, export)
            yield export
        finally:
            Comstar.release(name)

    @staticmethod
    def release(name: str) -> None:
        """Withdraw a target; see `Target.release`."""
        group, unit = _group(name), _unit(name)
        initiator = initiator_name(name)
        for listing, word, command in (
            (("itadm", "list-target"), name, ("itadm", "delete-target", "-f", name)),
            (("itadm", "list-initiator"), initiator, ("itadm", "delete-initiator", initiator)),
            (("itadm", "list-tpg"), group, ("itadm", "delete-tpg", group)),
            # Views are deleted with their unit.
            (("stmfadm", "list-lu"), unit, ("stmfadm", "delete-lu", unit)),
            (("stmfadm", "list-tg"), group, ("stmfadm", "delete-tg", group)),
        ):
            if word in run(listing, capture=True).stdout.split():
                try:
                    run(command)
                except ToolFailed as error:
                    raise DcdError(
                        "an iSCSI target cannot be withdrawn",
                        error.details,
                        f"stop its users, then run: {' '.join(command)}",
                    ) from error

    def _make(self, file: Path, export: Export) -> None:
        group, unit = _group(export.target), _unit(export.target)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = self._directory / "secret"
        secret.touch(mode=0o600)
        secret.write_text(export.chap.secret)
        try:
            run(["stmfadm", "create-lu", "-p", f"guid={unit}", file.absolute()])
            try:
                run(["itadm", "create-tpg", group, f"{export.address}:{export.port}"])
            except ToolFailed as error:
                raise Unprepared(
                    f"port {export.port} of {export.address} is not available",
                    error.output,
                    "another target uses it (itadm list-tpg -v names the portal group): install after its "
                    "removal, or on another host",
                ) from error
            user = export.chap.user
            run(["itadm", "create-initiator", "-u", user, "-S", secret, export.initiator])
            run(["stmfadm", "create-tg", group])
            # A target can become a member of a group only before its creation or while it is offline.
            run(["stmfadm", "add-tg-member", "-g", group, export.target])
            run(["stmfadm", "add-view", "-t", group, "-n", str(export.lun), unit])
            run(["itadm", "create-target", "-a", "chap", "-t", group, "-n", export.target])
        finally:
            secret.unlink()


def _group(name: str) -> str:
    """The name of the target's portal group and target group."""
    return f"dcd-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _unit(name: str) -> str:
    """The id of the target's logical unit."""
    return _GUID_PREFIX + hashlib.sha256(name.encode()).hexdigest()[:24].upper()
