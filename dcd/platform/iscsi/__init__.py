"""iSCSI targets behind one interface: serve a plain file as a disk, to this host alone."""

from dcd.platform.iscsi.comstar import Comstar
from dcd.platform.iscsi.interface import AUTHORITY, Chap, Export, Target, target_name
from dcd.platform.iscsi.lio import Lio
from dcd.platform.iscsi.tgt import Tgt

TARGETS: tuple[type[Target], ...] = (Tgt, Lio, Comstar)

__all__ = [
    "AUTHORITY",
    "TARGETS",
    "Chap",
    "Comstar",
    "Export",
    "Lio",
    "Target",
    "Tgt",
    "target_name",
]
