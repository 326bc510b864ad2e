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


def test_a_large_tree_is_written_beside_the_work_and_a_small_one_is_not(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    at_work = threading.Event()

    def write(path: Path) -> None:
        assert at_work.wait(10)
        written.append(path)

    monkeypatch.setattr(plain, "sync_file_system", write)
    with plain.writing_back(large):
        at_work.set()
    assert written == [large]
    (large / "0").unlink()
    with plain.writing_back(large):
        pass
    assert written == [large]


def test_an_error_of_the_writing_is_not_lost(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(plain, "sync_file_system", fail)
    with pytest.raises(OSError, match="broken"), plain.writing_back(large):
        pass


def test_a_large_file_is_written_beside_the_work_without_the_other_files_of_its_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    at_work = threading.Event()

    def write(path: Path) -> None:
        assert at_work.wait(10)
        written.append(path)

    def refuse(_: Path) -> None:
        raise AssertionError("other builds may be writing there")

    monkeypatch.setattr(plain, "sync_file", write)
    monkeypatch.setattr(plain, "sync_file_system", refuse)
    image = tmp_path / "image.iso"
    with image.open("wb") as file:
        file.truncate(plain._MANY_BYTES)
    with plain.writing_back(tmp_path):
        at_work.set()
    assert written == [image]
    image.write_bytes(b"small")
    with plain.writing_back(tmp_path):
        pass
    assert written == [image]
