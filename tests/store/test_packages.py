"""The package store: whole packages under their digests, and what a kill at any point leaves."""

import gzip
import hashlib
import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from statemachine.errors import DcdError, NotFound
from store.packages import Lent, Packages
from store.resolved import Resolved, ResolvedPackage, encoded

CONTENTS = [b"first", b"second" * 100_000, b""]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if not path.is_dir())


def store(packages: Packages, tmp_path: Path, *contents: bytes) -> None:
    lent = packages.lend("storing")
    for content in contents:
        downloaded = tmp_path / "downloaded.deb"
        downloaded.write_bytes(content)
        lent.keep(downloaded)
    assert packages.take_in(lent) == len(set(contents))


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_what_one_attempt_downloaded_the_next_one_copies(
    packages: Packages, tmp_path: Path, content: bytes
) -> None:
    store(packages, tmp_path, content)
    target = tmp_path / "cache.deb"
    lent = packages.lend("another")
    assert not lent.is_empty()
    assert lent.copy(digest(content), target)
    assert target.read_bytes() == content
    [kept] = files_below(packages.directory / "kept")
    assert kept.name == digest(content)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o444
    assert kept.stat().st_nlink == 1
    assert target.stat().st_ino != kept.stat().st_ino


def test_a_package_is_stored_once(packages: Packages, tmp_path: Path) -> None:
    store(packages, tmp_path, b"one", b"one", b"two")
    store(packages, tmp_path, b"two")
    assert {package.sha256 for package in packages.stored()} == {digest(b"one"), digest(b"two")}
    assert len(packages.stored()) == 2


def test_what_is_not_stored_is_not_copied(packages: Packages, tmp_path: Path) -> None:
    lent = packages.lend("a")
    assert lent.is_empty()
    assert not lent.copy(digest(b"x"), tmp_path / "x.deb")
    assert not (tmp_path / "x.deb").exists()
    with pytest.raises(ValueError, match="not a sha256"):
        lent.copy("../../etc/passwd", tmp_path / "x.deb")


@pytest.mark.parametrize("name", ["x", "", "../../etc/passwd", "0" * 63 + "\n"])
def test_what_is_no_digest_is_not_stored(packages: Packages, name: str) -> None:
    """An event of another member of a farm may name anything, and a collection of garbage reads them all."""
    assert not packages.has(name)
    with pytest.raises(NotFound):
        packages.resolved(name)


def test_a_damaged_package_counts_as_missing_until_it_is_downloaded_again(
    packages: Packages, tmp_path: Path
) -> None:
    store(packages, tmp_path, b"whole")
    kept = packages.directory / "kept" / digest(b"whole")
    kept.chmod(0o644)
    kept.write_bytes(b"whol\0")
    lent = packages.lend("a")
    assert not lent.copy(digest(b"whole"), tmp_path / "x.deb")
    assert not (tmp_path / "x.deb").exists()
    assert not any(file.name.startswith("used") for file in files_below(lent.incoming))
    store(packages, tmp_path, b"whole")
    assert lent.copy(digest(b"whole"), tmp_path / "x.deb")


def offer_under_a_wrong_name(incoming: Path, outside: Path) -> None:
    (incoming / digest(b"x")).write_bytes(b"y")


def offer_a_link(incoming: Path, outside: Path) -> None:
    (incoming / digest(b"x")).symlink_to(outside)


def offer_a_second_name(incoming: Path, outside: Path) -> None:
    (incoming / digest(b"x")).hardlink_to(outside)


def offer_a_directory(incoming: Path, outside: Path) -> None:
    (incoming / digest(b"x")).mkdir()
    (incoming / digest(b"x") / "below").write_bytes(b"x")


def offer_a_pipe(incoming: Path, outside: Path) -> None:
    os.mkfifo(incoming / digest(b"x"))


def offer_another_name(incoming: Path, outside: Path) -> None:
    (incoming / "x.deb").write_bytes(b"x")
    (incoming / "used-").touch()
    (incoming / f"used-{digest(b'x')}").touch()


@pytest.mark.parametrize(
    "offer",
    [
        offer_under_a_wrong_name, offer_a_link, offer_a_second_name, offer_a_directory,
        offer_a_pipe, offer_another_name,
    ],
)  # fmt: skip
def test_what_is_not_a_package_of_its_own_is_not_stored(
    packages: Packages, tmp_path: Path, offer: object
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"x")
    lent = packages.lend("a")
    assert callable(offer)
    offer(lent.incoming, outside)
    assert packages.take_in(lent) == 0
    assert list(packages.directory.rglob("*/*")) == []
    assert outside.read_bytes() == b"x"


@pytest.mark.root
def test_a_full_file_system_stores_nothing_and_fails_nothing(
    packages: Packages, tmp_path: Path, small_disk: Path
) -> None:
    lent = Lent(packages.lend("a").kept, small_disk)
    downloaded = tmp_path / "large.deb"
    downloaded.write_bytes(bytes(64 << 20))
    before = list(small_disk.iterdir())
    lent.keep(downloaded)
    assert list(small_disk.iterdir()) == before


def test_the_least_recently_used_are_over_the_limit(packages: Packages, tmp_path: Path) -> None:
    contents = [bytes([letter]) * 10 for letter in b"abc"]
    store(packages, tmp_path, *contents)
    for age, content in enumerate(contents):
        os.utime(packages.directory / "kept" / digest(content), (1000 + age, 1000 + age))
    lent = packages.lend("uses the oldest")
    assert lent.copy(digest(contents[0]), tmp_path / "x.deb")
    packages.take_in(lent)
    assert packages.over(30) == []
    assert [package.sha256 for package in packages.over(29)] == [digest(contents[1])]
    assert [package.sha256 for package in packages.over(10)] == [*map(digest, contents[1:])]
    assert len(packages.over(0)) == 3
    packages.remove(digest(contents[1]))
    packages.remove(digest(contents[1]))
    assert len(packages.stored()) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from store.packages import Packages

count, fatal = 0, int(sys.argv[2])

def die_at(event, arguments):
    global count
    if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.utime", "os.listdir"):
        if event == "open" and not str(arguments[0]).startswith(sys.argv[1]):
            return
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

packages = Packages(Path(sys.argv[1]) / "packages")
packages.prepare()
sys.addaudithook(die_at)
lent = packages.lend("attempt")
lent.copy(sys.argv[3], Path(sys.argv[1]) / "cache.deb")
for name in ("one", "two"):
    lent.keep(Path(sys.argv[1]) / name)
packages.take_in(lent)
print(count)
"""


@pytest.mark.slow
def test_a_kill_between_any_two_steps_leaves_whole_packages_and_nothing_else(
    tmp_path: Path,
) -> None:
    """Every step that a file system sees is one at which the process is killed once."""
    contents = {"one": b"1" * 3_000_000, "two": b"2"}
    survived = False
    for step in range(1, 200):
        root = tmp_path / str(step)
        root.mkdir()
        packages = Packages(root / "packages")
        packages.prepare()
        store(packages, root, b"old")
        for name, content in contents.items():
            (root / name).write_bytes(content)
        command = [sys.executable, "-c", KILLED, str(root), str(step), digest(b"old")]
        ended = subprocess.run(command, capture_output=True)
        packages.prepare()
        for package in packages.stored():
            kept = packages.directory / "kept" / package.sha256
            assert digest(kept.read_bytes()) == package.sha256
        assert {package.sha256 for package in packages.stored()} >= {digest(b"old")}
        assert list((packages.directory / "incoming").iterdir()) == []
        if ended.returncode == 0:
            assert len(packages.stored()) == 3
            survived = True
            break
        assert ended.returncode == -9, ended.stderr
    assert survived
    assert step > 12


def listing(*packages: tuple[bytes, bool]) -> bytes:
    return encoded(
        Resolved(
            tuple(
                ResolvedPackage("deb", "p", "1", "all", digest(content), len(content), "", captured)
                for content, captured in packages
            )
        )
    )


def test_a_list_is_accepted_only_with_every_file_that_it_names(packages: Packages) -> None:
    lent = packages.lend("a", "packages")
    name = lent.add(listing((b"there", True), (b"elsewhere", False)))
    packages.take_in(lent)
    with pytest.raises(DcdError, match="were not captured"):
        packages.require(name)
    lent = packages.lend("a", "packages")
    lent.add(b"there")
    packages.take_in(lent)
    packages.require(name)
    assert packages.resolved(name).packages[0].name == "p"


def test_an_attempt_cannot_store_a_file_under_a_digest_that_it_does_not_have(
    packages: Packages,
) -> None:
    lent = packages.lend("a", "packages")
    good = lent.add(b"good")
    (lent.incoming / digest(b"claimed")).write_bytes(b"other")
    (lent.incoming / digest(b"linked")).symlink_to(lent.incoming / good)
    (lent.incoming / "x").write_bytes(b"x")
    assert packages.take_in(lent) == 1
    assert [each.sha256 for each in packages.stored()] == [good]
    with pytest.raises(NotFound, match="does not have"):
        packages.require(digest(b"claimed"))


def test_a_damaged_list_is_refused(packages: Packages) -> None:
    lent = packages.lend("a", "packages")
    name = lent.add(listing((b"x", False)))
    packages.take_in(lent)
    kept = packages.directory / "kept" / name
    kept.chmod(0o644)
    kept.write_bytes(kept.read_bytes().replace(b'"p"', b'"q"'))
    with pytest.raises(DcdError, match="damaged"):
        packages.require(name)


def test_an_index_is_stored_compressed_in_the_same_bytes_each_time(
    packages: Packages, tmp_path: Path
) -> None:
    index = tmp_path / "Packages"
    index.write_bytes(b"Package: a\n" * 10_000)
    names = set()
    for attempt in "ab":
        lent = packages.lend(attempt, "packages")
        names.add(lent.keep_compressed(index))
        packages.take_in(lent)
        os.utime(index, (1, 1))
    [name] = names
    kept = packages.path(name)
    assert kept.stat().st_size < 2000
    assert gzip.decompress(kept.read_bytes()) == index.read_bytes()


def test_what_is_needed_stays_over_the_limit(packages: Packages, tmp_path: Path) -> None:
    store(packages, tmp_path, b"one", b"two", b"three")
    over = packages.over(0, {digest(b"one"), digest(b"three")})
    assert [each.sha256 for each in over] == [digest(b"two")]


def test_the_same_file_is_adopted_twice_at_once(tmp_path: Path) -> None:
    packages = Packages(tmp_path)
    packages.prepare()
    content = b"package" * 1000
    name = hashlib.sha256(content).hexdigest()

    class Interrupted(io.BytesIO):
        """Content during whose reading another thread adopts the same file."""

        def read(self, size: int | None = -1) -> bytes:
            if self.tell() == 0:
                other = threading.Thread(target=packages.adopt, args=(io.BytesIO(content), name))
                other.start()
                other.join()
            return super().read(size)

    packages.adopt(Interrupted(content), name)
    assert packages.path(name).read_bytes() == content
