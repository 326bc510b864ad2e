"""What a machine is known by, and each must make for itself: taken out of an image that many start from.

Source: machine-id(5), systemd-random-seed.service(8).
"""

from pathlib import Path

from dcd.platform.inside import entry, write


def remove_identity(root: Path) -> None:
    """Empty the machine id, and remove the random seed."""
    # Empty, not absent: then a system without a writable /etc can still have one in memory.
    write(root, "etc/machine-id", "", mode=0o444)
    entry(root, "var/lib/dbus/machine-id").unlink(missing_ok=True)
    entry(root, "var/lib/systemd/random-seed").unlink(missing_ok=True)
