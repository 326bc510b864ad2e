"""`dcctl migrate`: the new manifest on stdout or in a file, the rest on stderr, defaults found or named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dcd.api import schemas
from dcd.manifest.migrate import migrate

OLD = """<distribution name="old"><distro_constr_params><output_image><finalizer>
<script name="/opt/tune"><checkpoint name="tune"/></script></finalizer></output_image>
</distro_constr_params></distribution>
"""
DEFAULTS = '<defaults_and_validation_manifest name="x"/>\n'


@pytest.fixture
def old(tmp_path: Path, daemon: Any) -> Path:
    """An old manifest in a directory of its own; the daemon answers as the real one does."""

    def answer(request: Any) -> tuple[int, Any]:
        body = msgspec.json.decode(request.body, type=schemas.MigrateRequest)
        defaults = body.defaults and body.defaults.text
        migrated = migrate(body.manifest.text, body.manifest.path, defaults)
        view = schemas.MigratedView(migrated.text, migrated.left)
        return 200, msgspec.json.decode(msgspec.json.encode(view))

    daemon.answers["POST", "/v1/migrate"] = answer
    (tmp_path / "live").mkdir()
    path = tmp_path / "live/old.xml"
    path.write_text(OLD)
    return path


def sent(daemon: Any) -> Any:
    return daemon.requests[-1].json["defaults"]


def test_the_result_is_printed_and_what_is_left_goes_to_stderr(
    dcctl: Callable[..., Any], daemon: Any, old: Path
) -> None:
    outcome = dcctl("migrate", str(old))
    assert outcome.code == 0
    assert outcome.out.startswith("<?xml")
    assert 'checkpoint_class="CustomScript"' in outcome.out
    assert f"{old}:2:1: warning: tune still runs /opt/tune" in outcome.err
    assert sent(daemon) is None


def test_with_a_file_named_nothing_is_printed(dcctl: Callable[..., Any], old: Path) -> None:
    new = old.parent / "new.xml"
    outcome = dcctl("migrate", str(old), "-o", str(new))
    assert outcome.out == ""
    assert new.read_text().startswith("<?xml")
    assert dcctl("migrate", str(old), "-o", "/nowhere/new.xml").code == 2


@pytest.mark.parametrize("place", ["live", "."])
def test_defaults_beside_or_above_the_manifest_are_used_and_named(
    dcctl: Callable[..., Any], daemon: Any, old: Path, tmp_path: Path, place: str
) -> None:
    defaults = tmp_path / place / "DC-manifest.defval.xml"
    defaults.write_text(DEFAULTS)
    outcome = dcctl("migrate", str(old))
    assert sent(daemon) == {"path": str(defaults), "text": DEFAULTS}
    assert f"defaults are from {defaults}" in outcome.err


def test_defaults_that_are_named_are_used(
    dcctl: Callable[..., Any], daemon: Any, old: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.xml").write_text(DEFAULTS)
    dcctl("migrate", str(old), "--defaults", str(tmp_path / "mine.xml"))
    assert sent(daemon)["path"] == str(tmp_path / "mine.xml")
    assert dcctl("migrate", str(old), "--defaults", "/nowhere.xml").code == 8


def test_json_has_the_result_and_what_is_left(dcctl: Callable[..., Any], old: Path) -> None:
    answer = json.loads(dcctl("migrate", str(old), "--json").out)
    assert set(answer) == {"manifest", "left"}
    assert answer["left"][0]["line"] == 2
