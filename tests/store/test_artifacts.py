"""Artifacts: whole under their name or not there, never outside their build's directory."""

import hashlib
from pathlib import Path

import pytest

from statemachine.errors import UsageError
from statemachine.events import Artifact
from store.artifacts import Artifacts
from store.durable import DiskFull


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


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_publishing_delivers_the_file(artifacts: Artifacts, source: Path) -> None:
    published = artifacts.publish("build", described(source), source)
    assert published.path == str(artifacts.directory / "build" / "a.iso")
    assert Path(published.path).read_bytes() == source.read_bytes()
    assert [verdict.ok for verdict in artifacts.verify([published])] == [True]
    assert names(artifacts.directory / "build") == ["a.iso"]


def test_publishing_takes_no_space_on_the_same_file_system(
    artifacts: Artifacts, source: Path
) -> None:
    before = source.stat()
    published = Path(artifacts.publish("build", described(source), source).path).stat()
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
    assert artifacts.verify([published])[0].ok
    assert names(artifacts.directory / "build") == ["a.iso"]


def test_a_layer_that_goes_takes_no_artifact_with_it(artifacts: Artifacts, source: Path) -> None:
    published = artifacts.publish("build", described(source), source)
    source.unlink()
    assert artifacts.verify([published])[0].ok


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
        content = Path(artifact.path).read_bytes()
        Path(artifact.path).unlink()
        if artifact.name == "changed":
            Path(artifact.path).write_bytes(content[:-1] + b"X")
        if artifact.name == "cut":
            Path(artifact.path).write_bytes(content[:-1])
    verdicts = artifacts.verify(published)
    assert [verdict.ok for verdict in verdicts] == [True, False, False, False]
    assert "sha256" in verdicts[1].problem
    assert "4999 bytes instead of 5000" in verdicts[2].problem
    assert "No such file" in verdicts[3].problem


def test_removal_takes_one_build_and_may_be_repeated(artifacts: Artifacts, source: Path) -> None:
    artifacts.publish("one", described(source), source)
    kept = artifacts.publish("two", described(source), source)
    artifacts.remove("one")
    artifacts.remove("one")
    assert names(artifacts.directory) == ["two"]
    assert artifacts.verify([kept])[0].ok


@pytest.mark.root
def test_from_another_file_system_it_is_copied(small_disk: Path, source: Path) -> None:
    artifacts = Artifacts(small_disk / "artifacts")
    published = artifacts.publish("build", described(source), source)
    assert Path(published.path).stat().st_nlink == 1
    assert artifacts.verify([published])[0].ok


@pytest.mark.root
def test_a_full_disk_is_told_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    artifacts = Artifacts(small_disk / "artifacts")
    big = tmp_path / "big"
    big.write_bytes(b"x" * 2**25)
    with pytest.raises(DiskFull):
        artifacts.publish("build", described(big), big)
    assert names(artifacts.directory / "build") == []
