"""Files at paths that somebody else chose: regular ones, up to a size, without waiting."""

import errno
import hashlib
import os
import socket
from pathlib import Path

import pytest

from store.host.regular import digest_regular, open_regular, read_regular


def test_a_regular_file_is_read_and_digested(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content" * 1000)
    assert read_regular(file, 7000) == file.read_bytes()
    assert digest_regular(file, 7000) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_only_a_regular_file_is_opened_and_nothing_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for place in ("fifo", "socket", ".", "/dev/zero", "/dev/tty0"):
        with pytest.raises(OSError, match=r"not a regular file|No such file"):
            open_regular(tmp_path / place)


def test_a_link_is_followed_only_where_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "link")
    assert read_regular(tmp_path / "link", 1, follow=True) == b"x"


def test_what_is_larger_than_the_limit_is_refused_and_not_read_to_its_end(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    for look in (read_regular, digest_regular):
        with pytest.raises(OSError) as refused:
            look(huge, 1 << 20)
        assert refused.value.errno == errno.EFBIG
