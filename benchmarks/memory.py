"""The memory of a daemon, its launcher, planners and workers, without that of the tools that they run; and
the state of memory and disk in which each side of a comparison begins."""

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.daemon import Daemon

EVERY_SECONDS = 1.0
MOST_MIB = 300.0
_LEAVE_BYTES = 1 << 28
_PIECE_BYTES = 1 << 20
_FREE_BYTES = 10 << 30


@contextmanager
def watched(running: Daemon) -> Iterator[list[int]]:
    """Look at the daemon's memory once a second in the meantime; the list gets the bytes."""
    found = [own_bytes(running.pid)]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_SECONDS):
            found.append(own_bytes(running.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def own_bytes(daemon: int) -> int:
    """The proportional set size of a daemon and of all its descendants that run this project's code. Memory
    that several of them share counts once. Source: proc(5), smaps_rollup."""
    return sum(_pss_bytes(process) for process in _descendants(daemon) if _is_own(process))


def _descendants(ancestor: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # It has ended.
            parents[int(entry.name)] = int(fields[1])
    found = [ancestor]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def _is_own(process: int) -> bool:
    """Whether a process runs the interpreter of this environment; tools are other programs, also those that
    are written in Python."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return command[0] == os.fsencode(sys.executable)


def _pss_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def leave(directory: Path) -> None:
    """Write what a side has made to the disk, and keep it until all benchmarks are over if it fits there. For
    minutes after their removal, an ext4 without a journal passes over inodes one by one whenever it makes a
    file, which would count for whoever is next. Call it after each side. Source: find_inode_bit,
    fs/ext4/ialloc.c."""
    os.sync()
    if shutil.disk_usage(directory).free < _FREE_BYTES:
        shutil.rmtree(directory)


def fill(scratch: Path) -> None:
    """Fill free memory with clean page cache, of a sparse file in the directory. A virtual machine may give
    free memory back to its host (free page reporting of virtio-balloon) and get it again slowly, which
    would count for whichever side uses it first. Page cache stays, and is replaced when memory is
    needed. Call it before each side."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    size_bytes = (int(fields["MemFree"].split()[0]) << 10) - _LEAVE_BYTES
    if size_bytes <= 0:
        return
    with tempfile.NamedTemporaryFile(dir=scratch, prefix="fill-", delete=False) as file:
        file.truncate(size_bytes)
        with Path(os.devnull).open("wb") as nothing:
            shutil.copyfileobj(file, nothing, _PIECE_BYTES)
