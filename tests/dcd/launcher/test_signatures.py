"""What the launcher reads before it signs."""

from pathlib import Path

import pytest

from dcd.launcher.signatures import Published
from statemachine.errors import PermissionDenied
from store.artifacts import SUMS, Artifacts


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x00" * 3 + b"\x80"])
def test_a_list_of_digests_that_is_no_text_is_not_signed(tmp_path: Path, content: bytes) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    published = Published(artifacts, "b1", {})
    assert published.text(SUMS) is None
    artifacts.write("b1", SUMS, "sums", content)
    with pytest.raises(PermissionDenied, match=f"does not sign {SUMS}"):
        published.text(SUMS)
