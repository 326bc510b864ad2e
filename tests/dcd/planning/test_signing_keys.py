"""A key that cannot sign for its certificate is an error at its place, before anything is built."""

from pathlib import Path

import pytest

from dcd.manifest.diagnostics import Diagnostic, ManifestError
from dcd.manifest.includes import CapturedFile
from dcd.manifest.secrets import secret_text
from dcd.planning import signing_keys
from dcd.planning.ingredients import ingredients
from dcd.planning.load import Loaded, load
from dcd.planning.readiness import constructed
from dcd.platform import sight
from tests.dcd.checkpoints import efi

MANIFEST = """<dc><distro name="x"><distro_spec>
<img_params secure_boot="keys"><media_im/>{}</img_params></distro_spec>
<execution><checkpoint name="own" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
<args>true</args></checkpoint>
<checkpoint name="verify" mod_path="dcd/checkpoints/media/verify_boot" checkpoint_class="VerifyBoot">
<kwargs><arglist name="firmware"><argitem>uefi</argitem></arglist></kwargs></checkpoint>
</execution></distro></dc>"""


def loaded(signing: str, certificate: bytes = b"") -> Loaded:
    file = CapturedFile("c" * 64, 0o644, lambda: certificate)
    return load(MANIFEST.format(signing), "/me/m.xml", files={"/me/db.crt": file})


def found(signing: str, certificate: Path) -> list[Diagnostic]:
    return list(signing_keys.check_signing(loaded(signing), lambda sha256: certificate))


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of secrets."""
    monkeypatch.setattr(
        signing_keys, "secret_text", lambda path: secret_text(path, directories=(tmp_path,))
    )
    return tmp_path


def signing(key: Path) -> str:
    return f'\n<signing key="{key}" certificate="db.crt"/>'


def test_a_key_of_its_certificate_is_no_fault(secrets: Path) -> None:
    key, certificate = efi.new_keys(secrets, "one")
    assert found(signing(key), certificate) == []


def test_a_key_of_another_certificate_is_an_error_at_the_key(secrets: Path) -> None:
    key, _ = efi.new_keys(secrets, "one")
    _, other = efi.new_keys(secrets, "two")
    (fault,) = found(signing(key), other)
    assert (fault.severity, fault.line) == ("error", 3)
    assert fault.message == f"the signing key {key} does not belong to the certificate db.crt"
    assert fault.suggestion


def test_a_key_that_is_not_there_or_no_secret_is_an_error(secrets: Path, tmp_path: Path) -> None:
    _, certificate = efi.new_keys(secrets, "one")
    (fault,) = found(signing(secrets / "none.key"), certificate)
    assert "none.key cannot be read" in fault.message
    (fault,) = found(signing(Path("/etc/hostname")), certificate)
    assert "may not be read for a secret" in fault.message


def test_a_manifest_without_a_key_is_told_the_element() -> None:
    with pytest.raises(ManifestError) as caught:
        loaded("")
    (fault,) = caught.value.diagnostics
    assert (fault.line, fault.message) == (2, "there is no key to sign with")
    assert "<signing key=" in fault.suggestion


def test_a_key_that_is_not_used_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.MANIFEST", MANIFEST.replace(' secure_boot="keys"', ""))
    (warned,) = loaded(signing(Path("/etc/dcd/secrets/db.key"))).diagnostics
    assert (warned.severity, warned.message) == ("warning", "this key signs nothing")


def test_a_planner_opens_the_key_only_after_it_was_shown(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = efi.new_keys(secrets, "one")
    monkeypatch.setattr(sight, "_in_sight", (Path("/usr"),))
    with pytest.raises(sight.Unseen) as caught:
        found(signing(key), certificate)
    assert caught.value.paths == (key,)


def test_the_certificate_is_captured_and_part_of_the_keys_that_use_it() -> None:
    whole = loaded('<signing key="/etc/dcd/secrets/k" certificate="db.crt"/>')
    (own, script), (verify, instance) = constructed(whole.doc, ())
    assert script is not None
    assert instance is not None
    used = ingredients(whole.doc, verify, type(instance), instance, whole.inputs)
    assert [part.name for part in used if part.kind == "input"] == ["db.crt"]
    assert "signing" in [part.name for part in used if part.kind == "manifest"]
    unused = ingredients(whole.doc, own, type(script), script, whole.inputs)
    assert not [part for part in unused if part.kind == "input"]
