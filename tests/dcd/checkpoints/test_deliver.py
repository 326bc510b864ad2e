"""Delivery: what a checkpoint says of a file. The commit fills in the digest of all but large ones."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.media import deliver
from dcd.checkpoints.media.deliver import as_artifact
from statemachine.results import Artifact


def made(bench: Any, content: bytes) -> Path:
    file: Path = bench.root / "media/a.iso"
    file.write_bytes(content)
    return file


def test_a_file_is_described_without_its_digest(bench: Any) -> None:
    described = as_artifact(bench.context(bench.doc()), made(bench, b"image"), "iso", name="b.iso")
    assert described == Artifact("b.iso", "media/a.iso", "iso", 5, sha256="")


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_large_file_has_its_digest(
    bench: Any, monkeypatch: pytest.MonkeyPatch, extra: int
) -> None:
    """The content manifest of its layer has that of its pieces only."""
    monkeypatch.setattr(deliver, "PIECEWISE_BYTES", 1000)
    content = bytes(1000 + extra)
    described = as_artifact(bench.context(bench.doc()), made(bench, content), "iso")
    digest = hashlib.sha256(content).hexdigest() if extra >= 0 else ""
    assert (described.size_bytes, described.sha256) == (len(content), digest)
