"""A network between this host and a network namespace, for servers that tests cut off."""

import os
import subprocess
from ipaddress import IPv4Network

_BENCHMARKS = IPv4Network("198.18.0.0/15")
"""RFC 2544: nobody uses it in a real network."""

_EACH = 4


class Network:
    """See the module: `space` is the namespace, `server` the address of the only host there, and `range` that
    of all such networks. Each process has one of its own, for each `use` of it."""

    range = str(_BENCHMARKS)

    def __init__(self, use: int = 0) -> None:
        pid = os.getpid()
        number = (2 * pid + use) % (_BENCHMARKS.num_addresses // _EACH)
        here, self.server = (str(_BENCHMARKS[_EACH * number + side]) for side in (1, 2))
        self.space, self.ours, theirs = (f"dcd{side}{use}-{pid}" for side in "nab")
        _ip("netns", "add", self.space)
        try:
            _ip(
                *("link", "add", self.ours, "type", "veth"),
                *("peer", "name", theirs, "netns", self.space),
            )
            _ip("address", "add", f"{here}/30", "dev", self.ours)
            _ip("-n", self.space, "address", "add", f"{self.server}/30", "dev", theirs)
            _ip("-n", self.space, "link", "set", theirs, "up")
            self.join()
        except BaseException:
            self.remove()
            raise

    def join(self) -> None:
        """Connect the namespace with this host."""
        _ip("link", "set", self.ours, "up")

    def cut(self) -> None:
        """Cut it off."""
        _ip("link", "set", self.ours, "down")

    def remove(self) -> None:
        """Remove the namespace, and with it the network."""
        _ip("netns", "delete", self.space)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
