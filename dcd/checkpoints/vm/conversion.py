"""One disk image: made from the raw disk, checked, and compared with it block by block.

Holes stay holes. With the ids that `dcd.checkpoints.vm.format_ids` writes, the same disk gives the same
bytes. Safe in any thread.
Source: qemu-img(1).
"""

import json
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dcd.checkpoints.interface import Context
from dcd.checkpoints.vm.disk import DiskLayout
from dcd.checkpoints.vm.formats import Image
from dcd.checkpoints.vm.stream_vmdk import MOST_BYTES, write_stream_vmdk
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed

TOOLS = ("qemu-img",)
Level = Literal[1, 2, 3, 4, 5, 6, 7, 8, 9]
"""A level of the compression, from fast to small."""

_METER = re.compile(r"\(([0-9.]+)/100%\)")
_MOST_COROUTINES = 16
"""qemu-img's own limit."""


def convert(
    context: Context,
    disk: Path,
    image: Image,
    path: Path,
    *,
    out_of_order: bool,
    on_progress: Callable[[float], None],
) -> None:
    """Write the disk to `path` with qemu-img; with `out_of_order` it writes compressed clusters in any order.
    `on_progress` gets the completed fraction; an exception in it ends the work. Raises `ToolFailed`."""
    switches = ["-p", "-m", str(min(os.cpu_count() or 1, _MOST_COROUTINES))]
    options = []
    # VDI has only one variety, and no option for it.
    if image.subformat and image.type != "vdi":
        options.append(f"subformat={image.subformat}")
    if image.type == "vhd":
        # Otherwise the size is rounded to a number of cylinders, heads and sectors.
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
) -> None:
    """Write the disk to `path` as a streamOptimized VMDK. Raises `CheckpointError` as soon as it exceeds
    `most_bytes`, the limit of its `holder`."""
    content_id = zlib.crc32(layout.uuid.encode()) or 1
    written = 0
    with path.open("wb") as file:

        def write(data: bytes) -> None:
            nonlocal written
            written += len(data)
            refuse_above(most_bytes, written, holder)
            file.write(data)

        write_stream_vmdk(
            disk, write, name=path.name, content_id=content_id, level=level, on_progress=on_progress
        )


def refuse_above(most_bytes: int, size_bytes: int, holder: str) -> None:
    """Raise `CheckpointError`, with the numbers, when a compressed disk is larger than `most_bytes`."""
    if size_bytes > most_bytes:
        raise CheckpointError(
            f"the disk is too big for {holder}",
            f"compressed it has {size_bytes} bytes or more, and {holder} holds at most {most_bytes}",
            "leave the format out, or put less on the disk",
        )


def examine(context: Context, disk: Path, image: Image, path: Path) -> None:
    """Check an image's structure and compare its contents with the raw disk. Raises `CheckpointError` for
    any difference."""

    def corrupt(problem: str, details: str) -> CheckpointError:
        remedy = "check the host's memory and disk, then resume the build"
        return CheckpointError(f"{path.name} is corrupt: {problem}", details, remedy)

    driver = image.format.driver
    if image.format.checkable:
        try:
            context.run(["qemu-img", "check", "-q", "-f", driver, path], capture=True)
        except ToolFailed as failed:
            raise corrupt("its own structure is not consistent", failed.details) from failed
    info = context.run(["qemu-img", "info", "--output=json", "-f", driver, path], capture=True)
    size, expected = json.loads(info.stdout)["virtual-size"], disk.stat().st_size
    if size != expected:
        details = f"its virtual size is {size} bytes, the disk's {expected}"
        raise corrupt("it is not as big as the disk", details)
    try:
        context.run(["qemu-img", "compare", "-f", "raw", "-F", driver, disk, path], capture=True)
    except ToolFailed as failed:
        raise corrupt("its content differs from the disk's", failed.details) from failed
