"""Keys: made once, for one reader, and refused when somebody else may have read them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcd.main import main
from dcd.signing.keys import BadKey, check_key, open_key
from dcd.signing.new import new_key, shown_key
from dcd.signing.process import sign
from statemachine.errors import DcdError


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    new_key(path)
    return path


def test_new_key_is_an_ed25519_key_that_only_its_owner_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "key.pem"
    os.umask(before := os.umask(0))
    assert main(["key", "new", str(path), "--json"]) == 0
    assert os.umask(before) == before
    assert path.stat().st_mode & 0o7777 == 0o600
    printed = json.loads(capsys.readouterr().out)
    public = subprocess.run(
        ["openssl", "pkey", "-in", path, "-pubout"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == {"key_id": shown_key(path).key_id, "public_key": public}


def test_new_key_replaces_no_file(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = key.read_bytes()
    assert main(["key", "new", str(key)]) == 20
    assert "exists already" in capsys.readouterr().err
    assert key.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700])
def test_key_that_others_may_have_read_is_refused(key: Path, mode: int) -> None:
    key.chmod(mode)
    with pytest.raises(BadKey, match=f"its mode is {mode:04o}|is not safe"):
        open_key(key)


@pytest.mark.root
def test_key_of_another_owner_is_refused(key: Path) -> None:
    os.chown(key, 1234, 0)
    with pytest.raises(BadKey, match="is not safe"):
        open_key(key)


def test_key_that_is_missing_or_no_file_is_refused(tmp_path: Path, key: Path) -> None:
    (tmp_path / "link").symlink_to(key)
    for path in (tmp_path / "none", tmp_path, tmp_path / "link", Path("relative")):
        with pytest.raises(BadKey):
            open_key(path)


def test_key_that_manifests_can_refer_to_is_refused(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadKey, match="shown to checkpoints"):
        check_key(key, [key.parent])
    monkeypatch.setattr("dcd.signing.keys.is_among_secrets", lambda path: path == key.resolve())
    with pytest.raises(BadKey, match="among the secrets"):
        check_key(key)


KINDS = {
    "rsa": ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "encrypted": [
        *("openssl", "genpkey", "-algorithm", "ed25519"),
        *("-aes256", "-pass", "pass:word"),
    ],
    "public": ["sh", "-c", "openssl genpkey -algorithm ed25519 | openssl pkey -pubout"],
    "noise": ["echo", "no key"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_file_that_is_no_key_is_refused_without_its_content(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key.pem"
    content = subprocess.run(KINDS[kind], capture_output=True, check=True).stdout
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadKey, match="holds no signing key") as caught:
        sign(path, ["{}"])
    assert not [line for line in content.decode().split() if len(line) > 20 and line in str(caught)]


@pytest.mark.daemon
@pytest.mark.root
@pytest.mark.parametrize("wrong", ["mode", "content"])
def test_daemon_does_not_start_with_a_key_that_it_cannot_use(
    tmp_path: Path, key: Path, wrong: str
) -> None:
    if wrong == "mode":
        key.chmod(0o644)
    else:
        key.write_text("no key")
    config = tmp_path / "dcd.toml"
    config.write_text(f'signing_key = "{key}"\nstate_dir = "{tmp_path}/state"\n')
    command = [sys.executable, "-m", "dcd.main", "serve", "--config", config]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 20
    assert ("chmod 0600" if wrong == "mode" else "dcd key new") in done.stderr
    assert not (tmp_path / "state").exists()


def test_doctor_names_a_bad_key(key: Path, tmp_path: Path) -> None:
    from dcd.doctor import _guarded, _signatures

    assert _signatures("") == ("ok", "products are not signed: the setting signing_key is empty")
    assert _signatures(str(key)) == ("ok", f"products are signed with {key}")
    key.chmod(0o604)
    finding = _guarded(lambda: _signatures(str(key)))
    assert finding is not None
    assert finding[0] == "missing"
    assert "0604" in finding[1]
    key.chmod(0o600)
    key.write_text("no key")
    finding = _guarded(lambda: _signatures(str(key)))
    assert finding is not None
    assert "holds no signing key" in finding[1]


def test_signer_that_does_not_end_is_an_error(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcd.signing.process.SECONDS", 0.001)
    with pytest.raises(DcdError, match="the signer did not end") as failed:
        sign(key, ["{}"])
    assert failed.value.resolution
