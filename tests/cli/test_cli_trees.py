"""Directories that a manifest names: packed by dcctl with its rights, or refused with every reason."""

import os
import socket
import stat
import tarfile
from pathlib import Path

import pytest

from cli.trees import TreeFaults, packed, tree_digest
from tests.cli.test_cli_capture import item, manifest, submitted, wants  # noqa: F401


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "sub/file").write_text("content")
    (root / "link").symlink_to("/nowhere")
    return root


def names(root: Path, kind: str = "tree") -> list[str]:
    with packed(str(root), kind) as (file, _):
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            return tar.getnames()


def faults(root: Path, kind: str = "tree") -> list[str]:
    with pytest.raises(TreeFaults) as failure:
        tree_digest(str(root), kind)
    assert all(each.remedy for each in failure.value.faults)
    return [each.message.replace(f"{root}/", "") for each in failure.value.faults]


def test_a_tree_goes_out_as_an_archive(dcctl, daemon, manifest, tree: Path) -> None:  # noqa: F811
    wants(daemon, item(tree, kind="tree"))
    assert dcctl("submit", str(manifest)).code == 0
    sent = submitted(daemon)["files"][str(tree)]
    assert sent == {"sha256": tree_digest(str(tree), "tree"), "mode": tree.stat().st_mode & 0o7777}
    assert set(daemon.blobs) == {sent["sha256"]}
    assert names(tree) == [".", "link", "sub", "sub/file"]


def test_the_same_content_has_the_same_digest_wherever_it_is(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    os.system(f"cp -a {tree} {copy}")
    assert tree_digest(str(tree), "tree") == tree_digest(str(copy), "tree")
    (copy / "sub/file").chmod(0o600)
    assert tree_digest(str(tree), "tree") != tree_digest(str(copy), "tree")


def test_what_cannot_be_added_is_named_with_the_manifests_line(
    dcctl,
    daemon,
    manifest,  # noqa: F811
    tree: Path,
) -> None:
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
    wants(daemon, item(tree, kind="tree", line=7))
    refused = dcctl("submit", str(manifest))
    assert refused.code == 8
    assert f"{tree}/pipe is a named pipe, which is not added" in refused.err
    assert f"{tree}/socket is a socket, which is not added" in refused.err
    assert ":7: error" in refused.err
    assert daemon.blobs == {}


@pytest.mark.root
def test_a_device_is_not_added(tree: Path) -> None:
    os.mknod(tree / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    assert faults(tree) == ["disk is a device, which is not added"]


def test_each_unreadable_entry_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "sub/secret").write_text("x")
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "secret")
    assert faults(tree) == ["cannot read sub/secret: Permission denied"]


def test_a_file_or_nothing_is_no_directory(tree: Path) -> None:
    assert "is not a directory" in faults(tree / "sub/file")[0]
    assert "there is no directory" in faults(tree / "absent")[0]


def test_a_tree_has_a_limit(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.trees.MOST_ENTRIES", 2)
    assert "more than 2 entries" in faults(tree)[0]


def test_packages_are_the_deb_files_only(tree: Path) -> None:
    assert "has no packages" in faults(tree, "packages")[0]
    (tree / "sub/a_1_all.deb").write_bytes(b"deb")
    (tree / "b.deb").symlink_to("sub/a_1_all.deb")
    assert names(tree, "packages") == [".", "b.deb", "sub/a_1_all.deb"]


def test_a_private_key_is_never_sent(dcctl, daemon, manifest, tmp_path: Path) -> None:  # noqa: F811
    key = tmp_path / "id_ed25519"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    wants(daemon, item(key, kind="public_key"))
    refused = dcctl("submit", str(manifest))
    assert refused.code == 8
    assert "is a private key" in refused.err
    assert f"{key}.pub" in refused.err
    assert daemon.blobs == {}
