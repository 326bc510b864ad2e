"""Writing a large tree to disk while other work goes on."""

import errno
import threading
from pathlib import Path

import pytest

from store.layers import plain


@pytest.fixture
def large(tmp_path: Path) -> Path:
    for number in range(plain._MANY + 1):
        (tmp_path / f"{number}").touch()
    return tmp_path


class Writer:
    """Stands for a function that writes back: notes what it is called with, once others are `at_work`."""

    def __init__(self) -> None:
        self.at_work = threading.Event()
        self.written: list[Path] = []

    def __call__(self, path: Path) -> None:
        assert self.at_work.wait(10)
        self.written.append(path)


def test_a_large_tree_is_written_beside_the_work_and_a_small_one_is_not(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "sync_file_system", write := Writer())
    with plain.writing_back(large):
        write.at_work.set()
    assert write.written == [large]
    (large / "0").unlink()
    with plain.writing_back(large):
        pass
    assert write.written == [large]


def test_an_error_of_the_writing_is_not_lost(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(plain, "sync_file_system", fail)
    with pytest.raises(OSError, match="broken"), plain.writing_back(large):
        pass


def test_a_large_file_is_written_beside_the_work_without_the_other_files_of_its_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise AssertionError("other builds may be writing there")

    monkeypatch.setattr(plain, "sync_file", write := Writer())
    monkeypatch.setattr(plain, "sync_file_system", refuse)
    image = tmp_path / "image.iso"
    with image.open("wb") as file:
        file.truncate(plain._MANY_BYTES)
    with plain.writing_back(tmp_path):
        write.at_work.set()
    assert write.written == [image]
    image.write_bytes(b"small")
    with plain.writing_back(tmp_path):
        pass
    assert write.written == [image]
