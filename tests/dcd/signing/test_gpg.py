"""Signatures by gpg: gpgv verifies them, and nothing of gpg is left running."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from dcd.signing.gpg import sign_by_gpg
from dcd.signing.keys import BadKey
from statemachine.errors import DcdError

pytestmark = pytest.mark.skipif(not shutil.which("gpgv"), reason="gpg and gpgv are not installed")

CONTENT = b"0000  live.iso\n"


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gpg")
    directory.chmod(0o700)
    generate(directory, "release@example.org")
    return directory


def generate(directory: Path, name: str) -> None:
    options = ["--homedir", str(directory), "--batch", "--passphrase", ""]
    made = ["--quick-generate-key", name, "ed25519", "sign", "never"]
    subprocess.run(["gpg", *options, *made], check=True, capture_output=True)
    subprocess.run(["gpgconf", "--homedir", directory, "--kill", "all"], check=False)


def test_gpgv_verifies_the_signature_and_no_agent_is_left(home: Path, tmp_path: Path) -> None:
    (tmp_path / "sums").write_bytes(CONTENT)
    (tmp_path / "sums.gpg").write_bytes(sign_by_gpg(home, "release@example.org", CONTENT))
    ring = tmp_path / "ring.gpg"
    export = ["gpg", "--homedir", home, "--output", ring, "--export"]
    subprocess.run(export, check=True, capture_output=True)
    command = ["gpgv", "--keyring", ring, tmp_path / "sums.gpg", tmp_path / "sums"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    (tmp_path / "sums").write_bytes(CONTENT + b"x")
    assert subprocess.run(command, capture_output=True).returncode != 0
    agents = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"gpg-agent" in (text := path.read_bytes()) and bytes(home) in text
    ]
    assert agents == []


@pytest.mark.slow
def test_signing_again_after_a_crash_keeps_a_valid_signature_of_the_key(
    home: Path, tmp_path: Path
) -> None:
    earlier = tmp_path / "sums.gpg"
    first = sign_by_gpg(home, "release@example.org", CONTENT, earlier)
    earlier.write_bytes(first)
    time.sleep(1.1)  # the resolution of its time
    assert sign_by_gpg(home, "release@example.org", CONTENT, earlier) == first
    assert sign_by_gpg(home, "release@example.org", CONTENT + b"x", earlier) != first
    generate(home, "other@example.org")
    assert sign_by_gpg(home, "other@example.org", CONTENT, earlier) != first
    earlier.write_bytes(first[:-60])
    assert sign_by_gpg(home, "release@example.org", CONTENT, earlier) != first[:-60]


def test_gpg_that_does_not_end_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcd.signing.gpg.SECONDS", 0.001)
    with pytest.raises(DcdError, match="gpg did not sign") as failed:
        sign_by_gpg(home, "release@example.org", CONTENT)
    assert failed.value.resolution


def test_key_that_gpg_does_not_have_is_named(home: Path) -> None:
    with pytest.raises(BadKey, match=r"gpg cannot sign with the key other@example\.org"):
        sign_by_gpg(home, "other@example.org", CONTENT)
