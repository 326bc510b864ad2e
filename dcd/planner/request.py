"""The daemon's orders to the process that forks planners. Imports only fast modules."""

import enum
import struct
from dataclasses import dataclass
from typing import Self

ORDER = struct.Struct("!cQdQ")


class Kind(enum.Enum):
    """The kinds of orders."""

    NEW = b"N"
    KILL = b"K"


@dataclass(frozen=True, slots=True)
class Order:
    """An order for the planner with that number, and the limits of a new one."""

    kind: Kind
    number: int
    seconds: float = 0.0
    memory_bytes: int = 0

    def __bytes__(self) -> bytes:
        return ORDER.pack(self.kind.value, self.number, self.seconds, self.memory_bytes)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The order of a message."""
        kind, number, seconds, memory_bytes = ORDER.unpack(data)
        return cls(Kind(kind), number, seconds, memory_bytes)
