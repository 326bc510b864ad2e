"""Blobs: whole, digested, on disk, and never changed."""

import hashlib
import io
import os
import stat
import threading
from pathlib import Path

import pytest

from statemachine.errors import DcdError, NotFound, UsageError
from store.blobs import Blobs
from store.host.durable import DiskFull


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


@pytest.mark.parametrize("size", [0, 1, 3 * 2**20 + 1])
def test_what_was_put_is_there(blobs: Blobs, size: int) -> None:
    content = b"x" * size
    assert not blobs.has(digest(content))
    assert blobs.put(io.BytesIO(content), digest(content))
    assert blobs.has(digest(content))
    assert blobs.path(digest(content)).read_bytes() == content
    assert stat.S_IMODE(blobs.path(digest(content)).stat().st_mode) == 0o444
    (stored,) = blobs.stored()
    assert (stored.sha256, stored.size_bytes) == (digest(content), size)


def test_putting_it_again_changes_nothing(blobs: Blobs) -> None:
    assert blobs.put(b"x", digest(b"x"))
    path = blobs.path(digest(b"x"))
    inode = path.stat().st_ino
    os.utime(path, (0, 0))
    assert not blobs.put(b"x", digest(b"x"))
    assert path.stat().st_ino == inode
    (stored,) = blobs.stored()
    assert stored.stored_at > 0, "who puts it again is about to use it"


def test_content_of_another_digest_is_not_stored(blobs: Blobs) -> None:
    with pytest.raises(UsageError):
        blobs.put(b"changed meanwhile", digest(b"x"))
    assert list(blobs.directory.iterdir()) == []


def test_a_stream_that_breaks_leaves_nothing(blobs: Blobs) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        blobs.put(Breaking(), digest(b"x"))
    assert list(blobs.directory.iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_digests_are_names(blobs: Blobs, name: str) -> None:
    for use in (blobs.has, blobs.path, blobs.remove, lambda name: blobs.put(b"", name)):
        with pytest.raises(UsageError):
            use(name)


def test_what_is_not_there(blobs: Blobs) -> None:
    with pytest.raises(NotFound):
        blobs.path(digest(b"x"))
    blobs.remove(digest(b"x"))


def test_removal(blobs: Blobs) -> None:
    blobs.put(b"x", digest(b"x"))
    blobs.remove(digest(b"x"))
    assert not blobs.has(digest(b"x"))


def test_what_a_dead_daemon_left_half_written_goes_at_the_next_start(blobs: Blobs) -> None:
    (blobs.directory / ".part-abc").write_bytes(b"half")
    blobs.put(b"x", digest(b"x"))
    again = Blobs(blobs.directory)
    assert [path.name for path in blobs.directory.iterdir()] == [digest(b"x")]
    assert again.path(digest(b"x")).read_bytes() == b"x"


def test_many_threads_may_put_the_same(blobs: Blobs) -> None:
    content = b"x" * 2**20
    threads = [
        threading.Thread(target=blobs.put, args=(io.BytesIO(content), digest(content)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in blobs.directory.iterdir()] == [digest(content)]
    assert blobs.path(digest(content)).read_bytes() == content


@pytest.mark.root
def test_a_full_disk_is_told_and_leaves_nothing(small_disk: Path) -> None:
    blobs = Blobs(small_disk / "blobs")
    content = b"x" * 2**26
    with pytest.raises(DiskFull) as told:
        blobs.put(content, digest(content))
    assert told.value.cause.errno == 28
    assert list(blobs.directory.iterdir()) == []
    assert blobs.put(b"small", digest(b"small"))


ADA, BOB = 1000, 1001


def told(ask) -> tuple[type[BaseException], str]:  # type: ignore[no-untyped-def]
    with pytest.raises(DcdError) as refused:
        ask()
    return type(refused.value), str(refused.value)


def test_a_blob_is_there_only_for_those_who_have_put_it(blobs: Blobs) -> None:
    blobs.put(b"secret", digest(b"secret"), ADA)
    assert blobs.path(digest(b"secret"), ADA) == blobs.path(digest(b"secret"))
    known = told(lambda: blobs.path(digest(b"secret"), BOB))
    unknown = told(lambda: blobs.path(digest(b"nobody's"), BOB))
    assert known == (unknown[0], unknown[1].replace(digest(b"nobody's"), digest(b"secret")))
    assert blobs.put(b"secret", digest(b"secret"), BOB), "as if it were new"
    assert blobs.path(digest(b"secret"), BOB)
    assert not blobs.put(b"secret", digest(b"secret"), BOB)


def test_other_content_is_refused_alike_whether_the_digest_is_known_or_not(blobs: Blobs) -> None:
    blobs.put(b"secret", digest(b"secret"), ADA)
    os.utime(blobs.path(digest(b"secret")), (1, 1))
    known = told(lambda: blobs.put(b"a guess", digest(b"secret"), BOB))
    blobs.remove(digest(b"secret"))
    assert told(lambda: blobs.put(b"a guess", digest(b"secret"), BOB)) == known
    assert known[0] is UsageError


def test_a_guess_does_not_keep_a_blob_from_being_collected(blobs: Blobs) -> None:
    blobs.put(b"secret", digest(b"secret"), ADA)
    os.utime(blobs.path(digest(b"secret")), (1, 1))
    with pytest.raises(UsageError):
        blobs.put(b"a guess", digest(b"secret"), BOB)
    assert [blob.stored_at for blob in blobs.stored()] == [1]


def test_owners_outlive_the_daemon_and_end_with_the_blob(blobs: Blobs) -> None:
    blobs.put(b"x", digest(b"x"), ADA)
    again = Blobs(blobs.directory)
    assert again.path(digest(b"x"), ADA)
    assert [blob.sha256 for blob in again.stored()] == [digest(b"x")]
    again.remove(digest(b"x"))
    again.put(b"x", digest(b"x"), BOB)
    with pytest.raises(NotFound):
        again.path(digest(b"x"), ADA)


def test_what_is_in_a_users_build_is_given_to_the_user(blobs: Blobs) -> None:
    blobs.give(digest(b"x"), ADA)
    blobs.put(b"x", digest(b"x"))
    with pytest.raises(NotFound):
        blobs.path(digest(b"x"), ADA)
    blobs.give(digest(b"x"), ADA)
    assert blobs.path(digest(b"x"), ADA)


def test_a_blob_that_lost_its_owner_to_a_kill_is_put_again(blobs: Blobs) -> None:
    # Killed between the two: the answer was not given, and the client sends it again.
    blobs.put(b"x", digest(b"x"))
    with pytest.raises(NotFound):
        blobs.path(digest(b"x"), ADA)
    assert blobs.put(b"x", digest(b"x"), ADA)
    assert blobs.path(digest(b"x"), ADA)
