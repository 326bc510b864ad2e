"""What `dcctl download` makes of transfers that break off, of wrong content and of hostile names."""

import hashlib
import re
from pathlib import Path

import pytest

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def artifact(daemon) -> dict[str, object]:
    view = daemon.build().view
    view["state"] = "completed"
    found = {
        "name": "live.iso",
        "path": "/live.iso",
        "format": "iso",
        "size_bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "evidence": False,
    }
    view["artifacts"] = [found]
    return found


def serve(daemon, content: bytes = CONTENT, most: int | None = None, silent: int = 0) -> list[str]:
    """Answer with at most `most` bytes of the range that is asked for, after `silent` empty answers.
    Returns the ranges as they are asked for."""
    ranges: list[str] = []

    def answer(request):
        ranges.append(request.headers["Range"])
        begin = int(re.fullmatch(r"bytes=(\d+)-", ranges[-1])[1])
        return 206, content[begin:][: 0 if len(ranges) <= silent else most]

    daemon.answers["GET", "/v1/builds/k2p7abcd/artifacts/live.iso"] = answer
    return ranges


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(
    dcctl, daemon, artifact, tmp_path
) -> None:
    ranges = serve(daemon, most=400_000, silent=2)
    assert dcctl("download", "k2", "-o", str(tmp_path)).code == 0
    assert (tmp_path / "live.iso").read_bytes() == CONTENT
    assert ranges == [f"bytes={begin}-" for begin in (0, 0, 0, 400_000, 800_000)]
    assert [path.name for path in tmp_path.iterdir()] == ["live.iso"]


def test_another_run_goes_on_from_what_an_interrupted_one_left(
    dcctl, daemon, artifact, tmp_path
) -> None:
    serve(daemon, most=0)
    outcome = dcctl("download", "k2", "-o", str(tmp_path))
    assert outcome.code == 9
    (part,) = tmp_path.iterdir()
    part.write_bytes(CONTENT[:1000])
    ranges = serve(daemon)
    assert dcctl("download", "k2", "-o", str(tmp_path)).code == 0
    assert ranges == ["bytes=1000-"]
    assert (tmp_path / "live.iso").read_bytes() == CONTENT


def test_content_of_another_digest_gets_no_name(dcctl, daemon, artifact, tmp_path) -> None:
    (tmp_path / "live.iso").write_text("the last one")
    serve(daemon, content=bytes(len(CONTENT)))
    outcome = dcctl("download", "k2", "-o", str(tmp_path))
    assert outcome.code == 1
    assert "does not have the digest" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["live.iso"]
    assert (tmp_path / "live.iso").read_text() == "the last one"


@pytest.mark.parametrize(
    "field",
    [{"name": "../live.iso"}, {"name": ".profile"}, {"name": ""}, {"sha256": "/../../../tmp/x"}],
)
def test_no_name_or_digest_leads_out_of_the_directory(
    dcctl, daemon, artifact, tmp_path: Path, field
) -> None:
    artifact |= field
    outcome = dcctl("download", "k2", "-o", str(tmp_path / "out"))
    assert outcome.code == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_directory_that_cannot_be_made_is_an_error_before_any_transfer(
    dcctl, daemon, artifact, tmp_path
) -> None:
    ranges = serve(daemon)
    (tmp_path / "file").write_text("")
    outcome = dcctl("download", "k2", "-o", str(tmp_path / "file/out"))
    assert outcome.code == 2
    assert "cannot create" in outcome.err
    assert not ranges


def test_nothing_is_written_through_a_link_or_into_a_file_with_another_name(
    dcctl, daemon, artifact, tmp_path
) -> None:
    serve(daemon)
    there = tmp_path / "shared"
    there.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    part = there / f".live.iso.{artifact['sha256'][:12]}.part"
    part.symlink_to(victim)
    assert dcctl("download", "k2", "-o", str(there)).code != 0
    part.unlink()
    part.hardlink_to(victim)
    assert dcctl("download", "k2", "-o", str(there)).code != 0
    assert victim.read_text() == "precious"
    assert not (there / "live.iso").exists()
