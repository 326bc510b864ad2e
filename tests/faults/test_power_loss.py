"""The power goes off under the event log and under layers, and half of what was not flushed is lost.

They are written on an ext4 file system whose every write and flush is recorded (QEMU's blklogwrites,
exported over FUSE to a loop device). Afterwards the disk is made again as it was at a moment: all writes
before the last flush, and of those after it a random half. Then it is mounted, and must hold
everything that had been acknowledged by that moment. The controls are modes of SQLite, and layers without
syncs, that lose commits in the same rig: without them it would prove nothing.
"""

import contextlib
import json
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from statemachine.errors import NotFound
from store.eventlog import SqliteLog
from store.layers.choose import open_store

pytestmark = [
    pytest.mark.faults,
    pytest.mark.root,
    pytest.mark.skipif(
        shutil.which("qemu-storage-daemon") is None or not Path("/dev/fuse").exists(),
        reason="power cuts need qemu-storage-daemon (package qemu-system-common) and /dev/fuse",
    ),
]

COMMITS = 60
DISK_BYTES = 48 * 2**20
SECTOR_BYTES = 512
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8

SQLITE_WRITER = """
import os, sqlite3, sys
path, record, commits, journal, synchronous = sys.argv[1:]
database = sqlite3.connect(path, isolation_level=None)
database.execute(f"PRAGMA journal_mode={journal}")
database.execute(f"PRAGMA synchronous={synchronous}")
database.execute("CREATE TABLE commits (number INTEGER PRIMARY KEY, filling TEXT)")
for number in range(int(commits)):
    database.execute("INSERT INTO commits (filling) VALUES (?)", ("x" * 200,))
    print(os.stat(record).st_size, flush=True)
"""

LOG_WRITER = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from statemachine.events import Actor, BuildSubmitted, PauseRequested
from statemachine.keys import chain
from statemachine.plan import Ingredient, PlannedCheckpoint
from store.eventlog import SqliteLog
path, record, commits = sys.argv[1:]
plan = chain([PlannedCheckpoint("c", "", "m", "C", "", (Ingredient("code", "c", "1"),))])
with SqliteLog(Path(path)) as log:
    for number in range(int(commits)):
        payload = PauseRequested("c") if number else BuildSubmitted("live", "<dc/>", "/m", plan)
        log.append("b", number, [payload], Actor(), datetime.now(UTC)).result()
        print(os.stat(record).st_size, flush=True)
"""

LAYER_WRITER = """
import os, sys
from pathlib import Path
from store.layers import directory
from store.layers.choose import open_store
from store.layers.interface import LayerRecord
path, record, commits, syncs = sys.argv[1:]
layers = open_store("copy", Path(path).parent)
layers.prepare()
if syncs == "without":
    layers._trees.seal = directory.sync_file = directory.sync_directory = lambda path: None
    directory.write_file = lambda path, content, mode: path.write_bytes(content)
for number in range(int(commits)):
    key = f"{number:064x}"
    workspace = layers.begin(None, f"w{number}")
    for file in range(5):
        (workspace.root / str(file)).write_text(f"{number} {file}" * 500)
    workspace.document.write_text(f"<doc>{number}</doc>")
    layers.commit(workspace, LayerRecord(key, None, "build", "checkpoint", 1, 1.0))
    print(os.stat(record).st_size, flush=True)
"""


@dataclass(frozen=True)
class Write:
    """A recorded write or flush; `end` is the record's size with it."""

    offset: int
    data: bytes
    flags: int
    end: int


@dataclass(frozen=True)
class Recorded:
    """What happened on a disk: its content before, its writes, and the record's size at each
    acknowledged commit."""

    before: Path
    writes: list[Write]
    acknowledged: list[int]

    def disk_at(self, moment: int, path: Path, chance) -> None:
        """The disk as a power cut at that size of the record may leave it."""
        shutil.copyfile(self.before, path)
        issued = [write for write in self.writes if write.end <= moment]
        flushed = max((i for i, write in enumerate(issued) if write.flags & FLUSH), default=-1)
        with path.open("r+b") as disk:
            for number, write in enumerate(issued):
                if number <= flushed or write.flags & FUA or chance.random() < 0.5:
                    disk.seek(write.offset)
                    disk.write(write.data)


@pytest.fixture
def record_disk(tmp_path):
    """Runs a writer on a recorded disk, to its end, and returns what was recorded."""

    def record(*writer):
        before, disk, log = (tmp_path / name for name in ("before.img", "disk.img", "record.img"))
        export, place = tmp_path / "export.img", tmp_path / "mounted"
        with before.open("wb") as file:
            file.truncate(DISK_BYTES)
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", before)
        shutil.copyfile(before, disk)
        for file in (log, export):
            file.touch()
        place.mkdir(exist_ok=True)
        with contextlib.ExitStack() as undo:
            daemon = subprocess.Popen(
                [
                    "qemu-storage-daemon",
                    *("--blockdev", f"file,node-name=disk,filename={disk}"),
                    *("--blockdev", f"file,node-name=record,filename={log}"),
                    *("--blockdev", "blklogwrites,node-name=recorded,file=disk,log=record"),
                    "--export",
                    f"fuse,id=e,node-name=recorded,mountpoint={export},writable=on",
                ]
            )
            undo.callback(daemon.wait)
            undo.callback(daemon.terminate)
            undo.callback(wait_until_detached, export)
            wait_for_size(export, DISK_BYTES, daemon)
            run("mount", "-o", "loop", export, place)
            undo.callback(run, "umount", place)
            ended = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    writer[0],
                    place / "events.db",
                    log,
                    str(COMMITS),
                    *writer[1:],
                ],
                capture_output=True,
                text=True,
                check=True,
            )
        acknowledged = [int(line) for line in ended.stdout.split()]
        assert len(acknowledged) == COMMITS
        return Recorded(before, writes_of(log), acknowledged)

    return record


def run(*command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def wait_for_size(path, size, daemon, seconds=60):
    deadline = time.monotonic() + seconds
    while path.stat().st_size != size:
        assert daemon.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_until_detached(path, seconds=60):
    """A mount lives on in the mount namespaces that were made meanwhile, and its loop device with it."""
    deadline = time.monotonic() + seconds
    while subprocess.run(["losetup", "-j", path], capture_output=True, check=True).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def writes_of(record):
    """The entries of a record. Source: the kernel's device-mapper/log-writes documentation."""
    content = record.read_bytes()
    at = SECTOR_BYTES
    writes = []
    while at + 32 <= len(content):
        sector, sectors, flags, _ = struct.unpack_from("<QQQQ", content, at)
        at += SECTOR_BYTES
        size = 0 if flags & (DISCARD | MARK) else sectors * SECTOR_BYTES
        data = content[at : at + size]
        if flags & DISCARD:
            data = bytes(sectors * SECTOR_BYTES)
        at += size
        writes.append(Write(sector * SECTOR_BYTES, data, flags, at))
    return writes


def lost_at(recorded, moment, written, tmp_path, chance):
    """How many commits that were acknowledged by that moment the disk has lost."""
    # A disk of its own each time: what was mounted may live on in another mount namespace.
    directory = Path(tempfile.mkdtemp(dir=tmp_path))
    disk, place = directory / "disk.img", directory / "mounted"
    place.mkdir()
    recorded.disk_at(moment, disk, chance)
    run("mount", "-o", "loop", disk, place)
    try:
        kept = written(place)
    finally:
        run("umount", place)
        disk.unlink()
    return sum(size <= moment for size in recorded.acknowledged) - kept


def moments(recorded, chance, count):
    """Acknowledgements, and moments between them."""
    sizes = chance.sample(recorded.acknowledged, count // 2)
    ends = [write.end for write in recorded.writes if write.end >= recorded.acknowledged[0]]
    return sizes + chance.sample(ends, min(len(ends), count - len(sizes)))


def events_in(place):
    """The number of events in a log, which must be sound."""
    if not (place / "events.db").exists():
        return 0
    with SqliteLog(place / "events.db") as log:
        assert log.position == 0 or log.verify("b") == []
        assert log.verify_projection() == []
        return log.position


def rows_in(place):
    """The number of rows in a control's database; none when it is not whole any more."""
    try:
        with contextlib.closing(sqlite3.connect(place / "events.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return database.execute("SELECT count(*) FROM commits").fetchone()[0]
    except (sqlite3.DatabaseError, AssertionError):
        return 0


def whole_layers_in(place):
    """The number of layers from the first on that have all that was put into them."""
    layers = open_store("copy", place)
    for number in range(COMMITS):
        key = f"{number:064x}"
        try:
            files = [layers.file(key, str(file)).read_text() for file in range(5)]
            document = layers.document(key)
        except NotFound:
            return number
        whole = files == [f"{number} {file}" * 500 for file in range(5)]
        if not whole or document != f"<doc>{number}</doc>":
            return number
    return COMMITS


def test_acknowledged_commits_survive_a_power_cut(record_disk, tmp_path, chance, soak):
    recorded = record_disk(LOG_WRITER)

    for moment in moments(recorded, chance, 120 if soak else 16):
        lost = lost_at(recorded, moment, events_in, tmp_path, chance)
        assert lost <= 0, f"{lost} acknowledged commits are lost at {moment}"


def test_committed_layers_survive_a_power_cut_whole(record_disk, tmp_path, chance, soak):
    recorded = record_disk(LAYER_WRITER, "with")

    for moment in moments(recorded, chance, 120 if soak else 16):
        lost = lost_at(recorded, moment, whole_layers_in, tmp_path, chance)
        assert lost <= 0, f"{lost} committed layers are lost or in pieces at {moment}"


def test_control_layers_without_syncs_are_lost_or_in_pieces(record_disk, tmp_path, chance):
    recorded = record_disk(LAYER_WRITER, "without")

    losses = [
        lost_at(recorded, moment, whole_layers_in, tmp_path, chance)
        for moment in moments(recorded, chance, 16)
    ]

    assert max(losses) > 0


@pytest.mark.parametrize(("journal", "synchronous"), [("WAL", "NORMAL"), ("DELETE", "FULL")])
def test_control_other_modes_lose_acknowledged_commits(
    record_disk, tmp_path, chance, soak, journal, synchronous
):
    recorded = record_disk(SQLITE_WRITER, journal, synchronous)

    losses = [
        lost_at(recorded, moment, rows_in, tmp_path, chance)
        for moment in moments(recorded, chance, 120 if soak else 16)
    ]

    print(json.dumps({f"{journal}+{synchronous}": losses}))
    assert max(losses) > 0
