"""Artifacts: whole under their name or not there, never outside their build's directory."""

import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from statemachine.errors import UsageError
from statemachine.results import Artifact
from store.artifacts import Artifacts
from store.host.durable import DiskFull


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "layer-file"
    path.write_bytes(b"image" * 1000)
    return path


def described(source: Path, name: str = "a.iso") -> Artifact:
    content = source.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Artifact(name, f"media/{name}", "iso", len(content), digest)


GROUP = 48211
"""Of nobody on any host."""


def delivered(artifacts: Artifacts, name: str = "a.iso") -> Path:
    return artifacts.directory / "build" / name


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_publishing_delivers_the_file(artifacts: Artifacts, source: Path) -> None:
    published = artifacts.publish("build", described(source), source)
    assert published.path == "artifacts/build/a.iso"
    assert artifacts.path("build", published) == delivered(artifacts)
    assert delivered(artifacts).read_bytes() == source.read_bytes()
    assert [verdict.ok for verdict in artifacts.verify("build", [published])] == [True]
    assert names(artifacts.directory / "build") == ["a.iso"]


def test_publishing_takes_no_space_on_the_same_file_system(
    artifacts: Artifacts, source: Path
) -> None:
    artifacts.adopt(source)
    before = source.stat()
    artifacts.publish("build", described(source), source)
    published = delivered(artifacts).stat()
    shares_extents = published.st_ino != before.st_ino
    assert shares_extents or published.st_nlink == 2


def test_publishing_again_is_harmless(artifacts: Artifacts, source: Path) -> None:
    first = artifacts.publish("build", described(source), source)
    assert artifacts.publish("build", described(source), source) == first
    assert names(artifacts.directory / "build") == ["a.iso"]


def test_what_a_dead_daemon_left_half_written_is_replaced(
    artifacts: Artifacts, source: Path
) -> None:
    (artifacts.directory / "build").mkdir(parents=True)
    (artifacts.directory / "build" / ".part-a.iso").write_text("half")
    published = artifacts.publish("build", described(source), source)
    assert artifacts.verify("build", [published])[0].ok
    assert names(artifacts.directory / "build") == ["a.iso"]


def test_a_layer_that_goes_takes_no_artifact_with_it(artifacts: Artifacts, source: Path) -> None:
    published = artifacts.publish("build", described(source), source)
    source.unlink()
    assert artifacts.verify("build", [published])[0].ok


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/x", ".part-x", "a\nb", "a\0"])
def test_only_plain_names_are_published(artifacts: Artifacts, source: Path, name: str) -> None:
    with pytest.raises(UsageError):
        artifacts.publish("build", described(source, name), source)
    with pytest.raises(UsageError):
        artifacts.publish(name, described(source), source)
    with pytest.raises(UsageError):
        artifacts.remove(name)


def test_a_file_that_is_not_as_stated_is_not_published(artifacts: Artifacts, source: Path) -> None:
    stated = described(source)
    source.write_text("other")
    with pytest.raises(UsageError):
        artifacts.publish("build", stated, source)
    assert names(artifacts.directory / "build") == []


def test_verification_finds_each_kind_of_damage(artifacts: Artifacts, source: Path) -> None:
    source.chmod(0o644)
    names = ("good", "changed", "cut", "gone")
    published = [artifacts.publish("build", described(source, name), source) for name in names]
    for artifact in published[1:]:
        path = artifacts.path("build", artifact)
        content = path.read_bytes()
        path.unlink()
        if artifact.name == "changed":
            path.write_bytes(content[:-1] + b"X")
        if artifact.name == "cut":
            path.write_bytes(content[:-1])
    verdicts = artifacts.verify("build", published)
    assert [verdict.ok for verdict in verdicts] == [True, False, False, False]
    assert "sha256" in verdicts[1].problem
    assert "4999 bytes instead of 5000" in verdicts[2].problem
    assert "No such file" in verdicts[3].problem


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6777, 0o666, 0o600, 0o644, 0o000])
@pytest.mark.parametrize("owner", [(0, 0), (1000, 1000), (0, GROUP)])
@pytest.mark.parametrize("adopted", [True, False])
def test_nothing_of_mode_and_owner_goes_with_what_is_delivered(
    tmp_path: Path, source: Path, mode: int, owner: tuple[int, int], adopted: bool
) -> None:
    artifacts = Artifacts(tmp_path / "artifacts", GROUP)
    if adopted:
        artifacts.adopt(source)
    os.chown(source, *owner)
    source.chmod(mode)
    artifacts.publish("build", described(source), source)
    artifacts.publish("build", described(source), source)
    artifacts.write("build", "SHA256SUMS", "text", b"sums")
    for path in (delivered(artifacts), delivered(artifacts, "SHA256SUMS")):
        assert rights(path) == (0, GROUP, 0o640)
    for directory in (artifacts.directory, artifacts.directory / "build"):
        assert rights(directory) == (0, GROUP, 0o750)
    assert rights(source) == (*owner, mode), "the layer's own file is another"
    source.write_bytes(b"x")
    assert delivered(artifacts).read_bytes() != b"x"


@pytest.mark.root
@pytest.mark.parametrize(
    ("path", "mode", "names", "shared"),
    [
        ("media/a.iso", 0o640, 1, True),
        ("media/a.iso", 0o644, 1, False),
        ("media/a.iso", 0o640, 2, False),
        ("media/iso/a.iso", 0o640, 1, False),
        ("pkg_image/a.iso", 0o640, 1, False),
    ],
)
def test_a_file_of_the_media_that_lacks_only_the_group_is_linked(
    tmp_path: Path, source: Path, path: str, mode: int, names: int, shared: bool
) -> None:
    """The disk of a virtual machine is made by one checkpoint and delivered by another."""
    artifacts = Artifacts(tmp_path / "artifacts", GROUP)
    source.chmod(mode)
    if names > 1:
        os.link(source, tmp_path / "in-the-image")
    artifacts.publish("build", replace(described(source), path=path), source)
    assert rights(delivered(artifacts)) == (0, GROUP, 0o640)
    if delivered(artifacts).samefile(source):
        assert shared
    assert rights(source) == (0, GROUP if shared else 0, mode)


@pytest.mark.root
def test_a_file_with_another_name_in_the_image_is_not_adopted(tmp_path: Path, source: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts", GROUP)
    source.chmod(0o4755)
    os.link(source, tmp_path / "in-the-image")
    artifacts.adopt(source)
    artifacts.publish("build", described(source), source)
    assert rights(tmp_path / "in-the-image") == (0, 0, 0o4755)
    assert rights(delivered(artifacts)) == (0, GROUP, 0o640)


@pytest.mark.root
@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="no extended attributes here")
def test_no_attribute_gives_rights_to_what_is_delivered(tmp_path: Path, source: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts", GROUP)
    # cap_setuid+ep, as capabilities(7) stores it.
    os.setxattr(source, "security.capability", bytes.fromhex("0100000280000000" + "00" * 12))
    with_acl = source.with_name("with-acl")
    with_acl.write_bytes(source.read_bytes())
    # user::rw-, user:1000:rw-, group::r--, mask::rw-, other::---, as acl(5) is stored.
    entries = [(1, 6, -1), (2, 6, 1000), (4, 4, -1), (16, 6, -1), (32, 0, -1)]
    packed = b"".join(
        kind.to_bytes(2, "little")
        + bits.to_bytes(2, "little")
        + who.to_bytes(4, "little", signed=True)
        for kind, bits, who in entries
    )
    os.setxattr(with_acl, "system.posix_acl_access", b"\x02\0\0\0" + packed)
    for number, file in enumerate((source, with_acl)):
        for adopt in (False, True):
            if adopt:
                artifacts.adopt(file)
            name = f"{number}-{adopt}"
            artifacts.publish("build", described(file, name), file)
            found = set(os.listxattr(delivered(artifacts, name)))
            assert not found & {"security.capability", "system.posix_acl_access"}
            assert rights(delivered(artifacts, name)) == (0, GROUP, 0o640)


@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "directory", "device"])
def test_only_regular_files_are_delivered_and_read(
    artifacts: Artifacts, source: Path, kind: str
) -> None:
    stated = described(source)
    published = artifacts.publish("build", stated, source)
    for path in (delivered(artifacts), source.with_name("other")):
        path.unlink(missing_ok=True)
        match kind:
            case "link":
                path.symlink_to(source)
            case "dangling link":
                path.symlink_to("nothing")
            case "fifo":
                os.mkfifo(path)
            case "directory":
                path.mkdir()
            case "device":
                if os.geteuid() != 0:
                    pytest.skip("only root makes devices")
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    (verdict,) = artifacts.verify("build", [published])
    assert verdict.problem == "cannot be read: not a regular file"
    with pytest.raises(UsageError, match="differs from what its checkpoint declared") as refused:
        artifacts.publish("other", stated, source.with_name("other"))
    assert "not a regular file" in refused.value.details
    with pytest.raises(OSError, match="not a regular file"):
        artifacts.adopt(source.with_name("other"))


@pytest.mark.root
def test_what_version_0_1_0_delivered_is_closed_at_the_start(tmp_path: Path, source: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts", GROUP)
    build = artifacts.directory / "build"
    build.mkdir(parents=True)
    for name, mode in (("program", 0o4755), ("NAME.xml", 0o644)):
        (build / name).write_text(name)
        (build / name).chmod(mode)
    (build / "link").symlink_to("/etc/passwd")
    artifacts.prepare()
    for name in ("program", "NAME.xml"):
        assert rights(build / name) == (0, GROUP, 0o640)
    assert rights(build) == rights(artifacts.directory) == (0, GROUP, 0o750)
    assert rights(Path("/etc/passwd"))[1:] == (0, 0o644)


def test_artifacts_are_found_after_the_state_directory_has_moved(
    artifacts: Artifacts, source: Path, tmp_path: Path
) -> None:
    published = artifacts.publish("build", described(source), source)
    written_by_0_1_0 = replace(published, path=str(delivered(artifacts)))
    moved = Artifacts(artifacts.directory.rename(tmp_path / "elsewhere"))
    for artifact in (published, written_by_0_1_0):
        assert moved.path("build", artifact) == tmp_path / "elsewhere/build/a.iso"
        assert [verdict.ok for verdict in moved.verify("build", [artifact])] == [True]


def rights(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def test_removal_takes_one_build_and_may_be_repeated(artifacts: Artifacts, source: Path) -> None:
    artifacts.publish("one", described(source), source)
    kept = artifacts.publish("two", described(source), source)
    artifacts.remove("one")
    artifacts.remove("one")
    assert names(artifacts.directory) == ["two"]
    assert artifacts.verify("two", [kept])[0].ok


@pytest.mark.root
def test_from_another_file_system_it_is_copied(small_disk: Path, source: Path) -> None:
    artifacts = Artifacts(small_disk / "artifacts")
    published = artifacts.publish("build", described(source), source)
    assert delivered(artifacts).stat().st_nlink == 1
    assert artifacts.verify("build", [published])[0].ok


@pytest.mark.root
def test_a_full_disk_is_told_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    artifacts = Artifacts(small_disk / "artifacts")
    big = tmp_path / "big"
    big.write_bytes(b"x" * 2**25)
    with pytest.raises(DiskFull):
        artifacts.publish("build", described(big), big)
    assert names(artifacts.directory / "build") == []
