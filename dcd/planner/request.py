"""What the daemon orders from the process that forks planners. Imports nothing that costs time."""

import enum
import struct
from dataclasses import dataclass
from typing import Self

ORDER = struct.Struct("!cQdQ")


class Kind(enum.Enum):
    """What is to be done."""

    NEW = b"N"
    KILL = b"K"


@dataclass(frozen=True, slots=True)
class Order:
    """An order about the planner of that number, and the bounds of a new one."""

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
