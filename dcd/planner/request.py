"""The daemon's orders to the process that forks planners. Imports only fast modules."""

import struct
from dataclasses import dataclass
from typing import Self

ORDER = struct.Struct("!cQdQ")


NEW, KILL = b"N", b"K"
"""The kinds of orders."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order for the planner with that number, and the limits of a new one."""

    kind: bytes
    number: int
    seconds: float = 0.0
    memory_bytes: int = 0

    def __bytes__(self) -> bytes:
        return ORDER.pack(self.kind, self.number, self.seconds, self.memory_bytes)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The order of a message."""
        return cls(*ORDER.unpack(data))
