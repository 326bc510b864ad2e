"""The steps of a view, and what is mounted below a directory: without a worker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from store.host.interpreter import module_environment
from store.host.view import Link, Shown, if_there, shown

_IN_A_NAMESPACE = """
import sys
from pathlib import Path
from store.host.mounts import mount, new_mount_namespace, unmount_below
new_mount_namespace()
top = Path(sys.argv[1])
for name in ("plain", "a blank", "a\\ttab", "a\\nline", "a\\\\backslash", "#", "\u00e9"):
    (top / name).mkdir()
    mount("tmpfs", top / name, "")
(top / "plain" / "inner").mkdir()
mount("tmpfs", top / "plain" / "inner", "")
(top.parent / "beside").mkdir()
mount("tmpfs", top.parent / "beside", "")
print(len(unmount_below(top)), len(unmount_below(top)), (top.parent / "beside").is_mount())
"""


def test_what_does_not_exist_has_no_step(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for name in ("missing", "missing/inner", "dangling", "loop", "file/inner"):
        assert list(if_there(tmp_path / name)) == []


def test_what_exists_is_shown_with_the_links_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    real = Path(os.path.realpath(tmp_path)) / "real"
    wanted = [Link(tmp_path / "link", Path("real")), Shown(real, real)]
    assert list(if_there(tmp_path / "link")) == list(shown(tmp_path / "link")) == wanted
    assert list(shown(tmp_path / "missing")) == [Shown(tmp_path / "missing", tmp_path / "missing")]


@pytest.mark.root
def test_everything_below_a_directory_is_unmounted_whatever_its_name(tmp_path: Path) -> None:
    top = tmp_path / "the top"
    top.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_NAMESPACE, top],
        env={**os.environ, **module_environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "8 0 True\n", done.stderr
