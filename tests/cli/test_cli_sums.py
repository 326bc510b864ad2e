"""`dcctl verify SHA256SUMS`: the list's signatures and the files that it lists, each wrong one named."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from dcd.launcher.orders import Signing
from dcd.launcher.signatures import signatures
from dcd.signing.gpg import sign_by_gpg
from dcd.signing.new import new_key
from store.artifacts import Artifacts

BUILDER = "https://builds.example.org/"
NOT_FOUND, BAD_KEY, ALTERED, OTHER_KEY, OTHER_FILE, UNPROVED = 7, 20, 21, 22, 23, 24


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what is signed once for all tests: the artifacts of a build, and the key."""
    directory = tmp_path_factory.mktemp("signed")
    key = new_key(directory / "secret.pem")
    artifacts = Artifacts(directory / "artifacts")
    products = [
        artifacts.write("b1", name, "raw", name.encode()) for name in ("live.iso", "live.raw")
    ]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": each.name, "digest": {"sha256": each.sha256}} for each in products],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "runDetails": {"builder": {"id": BUILDER}, "metadata": {"invocationId": "b1"}}
        },
    }
    text = json.dumps(statement).encode()
    artifacts.write("b1", "live.provenance.json", "in-toto", text)
    sums = "".join(f"{each.sha256}  {each.name}\n" for each in products)
    artifacts.write("b1", "SHA256SUMS", "text", sums.encode())
    list(
        signatures(
            artifacts, Signing(key=str(directory / "secret.pem"), builder=BUILDER), "b1", "live"
        )
    )
    place = artifacts.directory / "b1"
    (place / "key.pem").write_text(key.pem)
    return directory


@pytest.fixture
def received(signed: Path, tmp_path: Path) -> Path:
    """A directory as a recipient has it: two products, their signed list, a signed statement, the key."""
    shutil.copytree(signed, tmp_path, dirs_exist_ok=True)
    return tmp_path / "artifacts/b1"


Check = Callable[..., tuple[int, str, str]]


@pytest.fixture
def check(received: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs the command for the list with the publisher's key; returns the exit code and the output."""

    def run(*options: Any, key: Any = "key.pem", file: str = "SHA256SUMS") -> tuple[int, str, str]:
        given = [] if key is None else ["--key", received / key]
        code = main(list(map(str, ["verify", received / file, *given, *options])))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_a_signed_list_proves_all_its_files(check: Check) -> None:
    code, out, _ = check()
    assert code == 0
    assert "SHA256SUMS: verified" in out
    assert [line.split() for line in out.splitlines() if "live." in line] == [
        ["same", "live.iso"],
        ["same", "live.raw"],
    ]
    report = json.loads(check("--json")[1])
    assert report["verified"]
    assert [each["state"] for each in report["files"][0]["files"]] == ["same", "same"]


def flipped(path: Path, at: int = 10) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def other_pem(received: Path) -> str:
    """Another key, given as that of the publisher."""
    other = new_key(received.parents[1] / "other.pem")
    (received / "other.pub").write_text(other.pem)
    return "other.pub"


WRONG: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "a digest": (lambda at: flipped(at / "SHA256SUMS"), ALTERED, "is altered"),
    "a name": (lambda at: flipped(at / "SHA256SUMS", 70), ALTERED, "is altered"),
    "a line more": (
        lambda at: (at / "SHA256SUMS").open("a").write(f"{'0' * 64}  more\n"),
        ALTERED,
        "is altered",
    ),
    "no list": (lambda at: (at / "SHA256SUMS").write_bytes(b"\xff\xfe"), ALTERED, "is altered"),
    "the signature": (lambda at: flipped(at / "SHA256SUMS.sig"), ALTERED, "is altered"),
    "a short signature": (lambda at: (at / "SHA256SUMS.sig").write_bytes(b"x"), ALTERED, "1 bytes"),
    "a file": (lambda at: flipped(at / "live.raw", 1), OTHER_FILE, "live.raw is not the file"),
    "no file": (lambda at: (at / "live.raw").unlink(), NOT_FOUND, "live.raw is missing"),
    "no list at all": (lambda at: (at / "SHA256SUMS").unlink(), NOT_FOUND, "cannot be read"),
    "no signature": (lambda at: (at / "SHA256SUMS.sig").unlink(), UNPROVED, ""),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_every_kind_of_wrong_has_its_own_exit_code(
    check: Check, received: Path, wrong: str
) -> None:
    spoil, expected, words = WRONG[wrong]
    spoil(received)
    code, out, err = check()
    assert code == expected
    assert words in err
    assert "verified" not in out.split("\n")[0]


def test_another_key_and_no_key_are_told_apart(check: Check, received: Path) -> None:
    code, _, err = check(key=other_pem(received))
    assert code == OTHER_KEY
    assert "SHA256SUMS.sig is signed by another key" in err
    code, out, _ = check(key=None)
    assert code == UNPROVED
    assert "NOT CHECKED" in out
    (received / "broken.pub").write_text(
        "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n"
    )
    assert check(key="broken.pub")[0] == BAD_KEY


def test_files_that_were_not_downloaded_may_be_missing_on_request(
    check: Check, received: Path
) -> None:
    (received / "live.raw").unlink()
    code, out, _ = check("--ignore-missing")
    assert code == 0
    assert "missing    live.raw" in out
    (received / "live.iso").unlink()
    assert check("--ignore-missing")[0] == NOT_FOUND


def test_a_file_is_held_against_the_list_beside_it_too(check: Check, received: Path) -> None:
    code, out, _ = check(file="live.iso")
    assert code == 0
    assert "in the signed SHA256SUMS too" in out
    flipped(received / "SHA256SUMS.sig")
    assert check(file="live.iso")[0] == ALTERED


def test_a_signed_list_alone_proves_a_file_but_no_builder(check: Check, received: Path) -> None:
    for name in ("live.sigstore.json", "live.provenance.dsse.json"):
        (received / name).unlink()
    for _ in range(2):
        code, out, _ = check(file="live.raw")
        assert code == 0
        assert "as in SHA256SUMS" in out
        assert BUILDER not in out
        assert check("--builder", BUILDER, file="live.raw")[0] == UNPROVED
        (received / "live.provenance.json").unlink(missing_ok=True)
    flipped(received / "live.raw", 0)
    assert check(file="live.raw")[0] == OTHER_FILE


@pytest.mark.skipif(not shutil.which("gpgv"), reason="gpg and gpgv are not installed")
def test_signatures_of_gpg_are_checked_with_a_keyring(
    check: Check, received: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # The path of a socket of gpg-agent has at most 107 bytes, unix(7).
    short = tmp_path_factory.mktemp("g")
    homes = [short / name for name in ("one", "two")]
    for home in homes:
        home.mkdir(mode=0o700)
        gpg = ["gpg", "--homedir", home, "--batch", "--passphrase", ""]
        made = [*gpg, "--quick-generate-key", "a@example.org", "ed25519", "sign", "never"]
        subprocess.run(made, check=True, capture_output=True)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
        for armour in ([], ["--armor"]):
            ring = received / f"{home.name}.{'asc' if armour else 'gpg'}"
            subprocess.run([*gpg, *armour, "--output", ring, "--export"], check=True)
    sums = (received / "SHA256SUMS").read_bytes()
    signature = sign_by_gpg(homes[0], "a@example.org", sums)
    (received / "SHA256SUMS.gpg").write_bytes(signature)
    assert check()[0] == 0
    for ring in ("one.gpg", "one.asc"):
        code, out, _ = check("--keyring", received / ring, key=None)
        assert (code, "verified" in out) == (0, True)
        assert check("--keyring", received / ring, key=None, file="live.iso")[0] == 0
    assert check("--keyring", received / "two.gpg", key=None)[0] == OTHER_KEY
    (received / "bad.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\nx\n")
    assert check("--keyring", received / "bad.asc", key=None)[0] == BAD_KEY
    assert check("--keyring", received / "none", key=None)[0] == NOT_FOUND
    (received / "SHA256SUMS.gpg").write_bytes(b"x")
    assert check("--keyring", received / "one.gpg", key=None)[0] == ALTERED
    (received / "SHA256SUMS.gpg").write_bytes(signature)
    digest = hashlib.sha256(b"live.iso").hexdigest()
    (received / "SHA256SUMS").write_text(f"{digest}  live.iso\n")
    assert check("--keyring", received / "one.gpg", key=None)[0] == ALTERED
