"""Contents of IPS packages in the package store: what is named by its content, however its attempt ended."""

import gzip
import hashlib
import os
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

import pytest

from store import contents
from store.packages import Lent, Packages

CONTENT = b"what a package has"
NAMES = {name: hashlib.new(name, CONTENT).hexdigest() for name in ("sha1", "sha256", "sha512_256")}
NAME = NAMES["sha1"]


def place(lent: Lent, name: str, publisher: str = "one") -> Path:
    """Where pkg would leave a file of that name."""
    file = lent.incoming / contents.DIRECTORY / publisher / "file" / name[:2] / name
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_what_one_attempt_downloaded_the_next_one_reads(packages: Packages, name: str) -> None:
    lent = packages.lend("one")
    place(lent, name).write_bytes(gzip.compress(CONTENT))
    assert packages.take_in(lent) == 1
    again = packages.lend("two")
    assert again.contents() == [name]
    assert gzip.decompress(again.content(name).read_bytes()) == CONTENT
    assert stat.S_IMODE(again.content(name).stat().st_mode) == 0o444


def wrong_content(file: Path) -> None:
    file.write_bytes(gzip.compress(b"another"))


def cut_short(file: Path) -> None:
    file.write_bytes(gzip.compress(CONTENT)[:-3])


def followed_by_more(file: Path) -> None:
    file.write_bytes(gzip.compress(CONTENT) + b"more")


def uncompressed(file: Path) -> None:
    file.write_bytes(CONTENT)


def a_link(file: Path) -> None:
    other = file.parents[4] / "whole"
    other.write_bytes(gzip.compress(CONTENT))
    file.symlink_to(other)


def a_second_name(file: Path) -> None:
    other = file.parents[4] / "whole"
    other.write_bytes(gzip.compress(CONTENT))
    file.hardlink_to(other)


def a_pipe(file: Path) -> None:
    os.mkfifo(file)


def below_a_link(file: Path) -> None:
    elsewhere = file.parents[4] / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / NAME).write_bytes(gzip.compress(CONTENT))
    file.parent.rmdir()
    file.parent.symlink_to(elsewhere)


@pytest.mark.parametrize(
    "leave",
    [
        wrong_content, cut_short, followed_by_more, uncompressed, a_link, a_second_name, a_pipe,
        below_a_link,
    ],
)  # fmt: skip
def test_what_is_not_named_by_its_content_is_not_kept(
    packages: Packages, leave: Callable[[Path], None]
) -> None:
    lent = packages.lend("one")
    leave(place(lent, NAME))
    assert packages.take_in(lent) == 0
    assert packages.lend("two").contents() == []


def test_a_content_without_end_is_not_read_to_its_end(
    packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "MOST_BYTES", 1 << 20)
    lent = packages.lend("one")
    large = b"\0" * (3 << 20)
    place(lent, hashlib.sha1(large).hexdigest()).write_bytes(gzip.compress(large))
    assert packages.take_in(lent) == 0


def test_contents_of_another_digest_count_as_read(
    packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a few megabytes that unpack to the limit, again and again, would keep the launcher busy."""
    monkeypatch.setattr(contents, "MOST_BYTES", 1 << 20)
    read: list[int] = []
    unpacked = contents._unpacked

    def counting(file: BufferedReader, name: str, most_bytes: int) -> tuple[int, bool]:
        length, whole = unpacked(file, name, most_bytes)
        read.append(length)
        return length, whole

    monkeypatch.setattr(contents, "_unpacked", counting)
    lent = packages.lend("one")
    for number in range(20):
        place(lent, f"{number:040}").write_bytes(gzip.compress(b"\0" * (1 << 18)))
    assert packages.take_in(lent) == 0
    assert sum(read) <= 2 << 20


def test_a_start_keeps_what_an_attempt_of_a_dead_daemon_had_downloaded(packages: Packages) -> None:
    lent = packages.lend("one")
    place(lent, NAME).write_bytes(gzip.compress(CONTENT))
    place(lent, "0" * 40).write_bytes(b"half")
    packages.prepare()
    assert packages.lend("two").contents() == [NAME]
    assert not lent.incoming.exists()


def test_the_least_recently_used_go_first(packages: Packages) -> None:
    for attempt, content in enumerate((b"old", b"new")):
        lent = packages.lend("one")
        name = hashlib.sha1(content).hexdigest()
        place(lent, name).write_bytes(gzip.compress(content))
        packages.take_in(lent)
        os.utime(lent.content(name), (attempt, attempt))
    lent = packages.lend("one")
    old, new = (hashlib.sha1(content).hexdigest() for content in (b"old", b"new"))
    assert [each.sha256 for each in packages.over(30)] == [f"content-{old}"]
    lent.note_use(old)
    packages.take_in(lent)
    [unused] = packages.over(30)
    assert unused.sha256 == f"content-{new}"
    packages.remove(unused.sha256)
    assert packages.lend("two").contents() == [old]
