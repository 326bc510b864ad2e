"""Commands that check a manifest's files run confined, and only for who may, or if they are harmless."""

import hashlib
from pathlib import Path

import pytest

from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.includes import CapturedFile
from dcd.planning import validation
from dcd.planning.load import load
from store.blobs import Blobs

pytestmark = pytest.mark.root


def found(
    place: Path,
    attributes: str,
    content: str = "good\n",
    *,
    host_code: bool = True,
    source: str = "a.conf",
) -> list[Diagnostic]:
    """What is found out about a configuration with this validation."""
    text = f"""<dc><distro name="x"><execution>
<checkpoint name="a" mod_path="dcd/checkpoints/image/configure" checkpoint_class="DebianPrePkgImgMod"/>
</execution><configuration name="a" source="{source}" dest="/etc/a">
<validation {attributes}/></configuration></distro></dc>"""
    blobs = Blobs(place / "blobs")
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    blobs.put(content.encode(), sha256)
    loaded = load(text, "/home/m.xml", files={"/home/a.conf": CapturedFile(sha256)})
    return validation.validate(loaded, blobs.path, host_code)


def test_a_command_that_accepts_the_file_says_nothing(tmp_path: Path) -> None:
    assert found(tmp_path, 'path="/usr/bin/grep" args="-q good"') == []


def test_a_command_that_refuses_the_file_is_an_error_at_its_place(tmp_path: Path) -> None:
    (told,) = found(tmp_path, 'path="/usr/bin/grep" args="-q bad"')
    assert (told.severity, told.file, told.line) == ("error", "/home/m.xml", 4)
    assert told.message == "/usr/bin/grep -q bad refuses a.conf"
    assert told.why == "It ended with exit status 1."


def test_what_the_command_says_is_told_without_the_place_of_the_copy(tmp_path: Path) -> None:
    (told,) = found(tmp_path, 'path="/bin/sh"', "if\n")
    assert told.why.startswith("a.conf: 2: Syntax error")


def test_a_check_that_need_not_succeed_warns(tmp_path: Path) -> None:
    (told,) = found(tmp_path, 'path="/usr/bin/grep" args="-q bad" on_error="continue"')
    assert told.severity == "warning"


def test_without_the_right_to_host_code_only_known_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = 'path="/usr/bin/grep" args="-q bad"'
    (told,) = found(tmp_path, marker, host_code=False)
    assert told.severity == "error"
    assert told.message == "'/usr/bin/grep -q bad' may not be run"
    assert "svccfg apply -n" in told.why
    monkeypatch.setattr(validation, "KNOWN", {"grep": (("-q", "bad"),)})
    (told,) = found(tmp_path, marker, host_code=False)
    assert told.message == "/usr/bin/grep -q bad refuses a.conf"


@pytest.mark.parametrize(
    "attributes",
    ['path="/tmp/svccfg" args="apply -n"', 'path="/usr/sbin/svccfg" args="delete"',
     'path="svccfg"', 'path="/usr/bin/xmllint" args="--noout --noent"',
     'path="../usr/sbin/svccfg" args="apply -n"', 'path="sh"'],
)  # fmt: skip
def test_what_is_only_like_a_known_command_is_none(tmp_path: Path, attributes: str) -> None:
    (told,) = found(tmp_path, attributes, host_code=False)
    assert told.message.endswith("may not be run")


@pytest.mark.parametrize("host_code", [True, False])
def test_a_command_that_is_not_here_is_warned_of(tmp_path: Path, host_code: bool) -> None:
    (told,) = found(tmp_path, 'path="/usr/sbin/svccfg" args="apply -n"', host_code=host_code)
    assert told.severity == "warning"
    assert "a.conf was not checked: this host has no /usr/sbin/svccfg" in told.message


@pytest.mark.parametrize("source", ["{PKG_IMAGE_PATH}/etc/a.conf"])
def test_a_file_of_the_image_is_not_checked(tmp_path: Path, source: str) -> None:
    assert found(tmp_path, 'path="/bin/false"', source=source) == []


def test_it_takes_no_longer_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "SECONDS", 0.2)
    (told,) = found(tmp_path, 'path="/bin/sh"', "sleep 60\n")
    assert told.why == "It took longer than 0 seconds."
    monkeypatch.setattr(validation, "ALL_SECONDS", 0.0)
    (told,) = found(tmp_path, 'path="/bin/sh"', "true\n")
    assert "all validations together took too long" in told.message


def test_the_command_changes_nothing_of_the_file(tmp_path: Path) -> None:
    (told,) = found(tmp_path, 'path="/bin/sh"', 'echo x >>"$0"\n')
    assert "Permission denied" in told.why or "cannot create" in told.why
