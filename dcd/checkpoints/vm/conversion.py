"""One disk image: made from the raw disk, checked, and held against it block by block.

Holes stay holes. Except for the ids that qemu-img draws by chance for VDI, VHD, VHDX and a monolithicSparse
VMDK, the same disk gives the same bytes. Safe in any thread.
Source: qemu-img(1).
"""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from dcd.checkpoints.interface import Checkpoint, Context
from dcd.checkpoints.vm.disk import DiskLayout
from dcd.checkpoints.vm.formats import Image
from dcd.checkpoints.vm.stream_vmdk import MOST_BYTES, write_stream_vmdk
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed

TOOLS = ("qemu-img",)

_METER = re.compile(r"\(([0-9.]+)/100%\)")
_MOST_COROUTINES = 16
"""qemu-img's own limit."""


def check_level(doc: DataObjectCache, checkpoint: Checkpoint, level: int) -> Iterator[Diagnostic]:
    """An error for what is not a level of zlib's."""
    if not 1 <= level <= 9:
        yield checkpoint.fault(
            doc,
            "level",
            f"level {level} is not one of zlib's",
            "it is 1 (fast) to 9 (small)",
            '<arg name="level">6</arg>',
        )


def convert(
    context: Context,
    disk: Path,
    image: Image,
    path: Path,
    *,
    out_of_order: bool,
    on_progress: Callable[[float], None],
) -> None:
    """Write the disk to `path` with qemu-img. `out_of_order` lets it write what it has compressed as it
    comes. `on_progress` is told the fraction that is done; an exception out of it ends the work.
    Raises `ToolFailed`."""
    switches = ["-p", "-m", str(min(os.cpu_count() or 1, _MOST_COROUTINES))]
    options = []
    # VDI has but one variety, and no option of that name.
    if image.subformat and image.type != "vdi":
        options.append(f"subformat={image.subformat}")
    if image.type == "vhd":
        # Else the size is rounded to one that cylinders, heads and sectors can say.
        options.append("force_size=on")
    if image.type == "vmdk":
        options.append("adapter_type=lsilogic")
    if image.compression:
        options.append(f"compression_type={image.compression}")
        switches += ["-c", *(["-W"] if out_of_order else [])]

    def on_meter(shown: str) -> None:
        if found := _METER.search(shown):
            on_progress(float(found[1]) / 100)

    context.run(
        [
            *("qemu-img", "convert", *switches, "-f", "raw", "-O", image.format.driver),
            *(("-o", ",".join(options)) if options else ()),
            *(disk, path),
        ],
        capture=True,
        on_meter=on_meter,
    )


def make_stream(
    path: Path,
    disk: Path,
    layout: DiskLayout,
    *,
    level: int,
    on_progress: Callable[[float], None] = lambda fraction: None,
    most_bytes: int = MOST_BYTES,
    holder: str = "a streamOptimized VMDK",
) -> str:
    """Write the disk to `path` as a streamOptimized VMDK; returns its sha256. Raises `CheckpointError` as
    soon as it has more than the `most_bytes` that its `holder` can have."""
    content_id = zlib.crc32(layout.uuid.encode()) or 1
    with path.open("wb") as file:
        sink = _Digested(file, most_bytes, holder)
        write_stream_vmdk(
            disk, sink, name=path.name, content_id=content_id, level=level, on_progress=on_progress
        )
    return sink.digest.hexdigest()


def refuse_above(most_bytes: int, size_bytes: int, holder: str) -> None:
    """Raise `CheckpointError`, with the numbers, when a compressed disk is larger than `most_bytes`."""
    if size_bytes > most_bytes:
        raise CheckpointError(
            f"the disk is too big for {holder}",
            f"compressed it has {size_bytes} bytes or more, in {holder} it has at most {most_bytes}",
            "leave the format out, or put less on the disk",
        )


class _Digested:
    """A file of at most `most_bytes`, and the digest of what is written to it."""

    def __init__(self, file: BinaryIO, most_bytes: int, holder: str) -> None:
        self._file, self._most_bytes, self._holder = file, most_bytes, holder
        self._written = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._written += len(data)
        refuse_above(self._most_bytes, self._written, self._holder)
        self._file.write(data)
        self.digest.update(data)


def examine(context: Context, disk: Path, image: Image, path: Path) -> None:
    """Check an image's structure and hold its contents against the raw disk. Raises `CheckpointError`
    when anything is not as it should be."""
    driver = image.format.driver
    remedy = "look whether the host's memory and disk are sound, then resume the build"
    if image.format.checkable:
        try:
            context.run(["qemu-img", "check", "-q", "-f", driver, path], capture=True)
        except ToolFailed as failed:
            brief = f"{path.name} is corrupt: its own structure is not consistent"
            raise CheckpointError(brief, failed.details, remedy) from failed
    told = context.run(
        ["qemu-img", "info", "--output=json", "-f", driver, path], capture=True
    ).stdout
    size, expected = json.loads(told)["virtual-size"], disk.stat().st_size
    if size != expected:
        raise CheckpointError(
            f"{path.name} is corrupt: it is not as big as the disk",
            f"its virtual size is {size} bytes, the disk's {expected}",
            remedy,
        )
    compare = ["qemu-img", "compare", "-f", "raw", "-F", driver, disk, path]
    try:
        context.run([str(part) for part in compare], capture=True)
    except ToolFailed as failed:
        brief = f"{path.name} is corrupt: it does not hold what the disk holds"
        raise CheckpointError(brief, failed.details, remedy) from failed
