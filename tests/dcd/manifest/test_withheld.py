"""Manifests without secrets: none is left, wherever it got to, and all else stays."""

import pytest

from dcd.manifest.canonical import restore
from dcd.manifest.objects import BUILTIN
from dcd.manifest.withheld import WITHHELD, withheld, withhold
from dcd.planning.load import load

HASH = "$6$saltsalt$IxDD3jeSOb5eB1CX5LBsqZFVkJdido3OUILO5Ifz5iwMuTS4XMS130MTSuDDl3aCI6WouIL9AjRbLCelDCy.g."

MANIFEST = f"""
<dc>
  <parameter name="code" default="opensesame"/>
  <distro name="live" http_proxy="http://proxy.example.com:3128">
    <execution>
      <checkpoint name="script" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
        <args>curl --user me:${{code}} https://me:in-a-url@example.com/file</args>
        <kwargs><arglist name="environment"><argitem>CODE=${{code}}</argitem></arglist></kwargs>
      </checkpoint>
    </execution>
    <configuration name="script">
      <user name="plain"><password>${{code}}</password></user>
      <user name="hashed"><password hashed="true">{HASH}</password></user>
      <user name="elsewhere"><password file="/etc/dcd/secrets/live"/></user>
    </configuration>
    <target><disk><iscsi target_name="iqn.2000-01.com.example:x" target_lun="0" target_ip="192.0.2.1"
      chap_name="initiator" chap_password="chap-secret-of-the-disk"/></disk></target>
  </distro>
</dc>
"""
SECRETS = ("opensesame", HASH, "in-a-url", "chap-secret-of-the-disk")


@pytest.fixture(scope="module")
def canonical() -> str:
    return load(MANIFEST, "/m.xml", parameters={"code": "opensesame"}).canonical


def test_no_secret_is_left_wherever_it_got_to(canonical: str) -> None:
    assert all(secret in canonical for secret in SECRETS)
    text = withheld(canonical).text
    assert [secret for secret in SECRETS if secret in text] == []


def test_all_else_stays(canonical: str) -> None:
    text = withheld(canonical).text
    for kept in (
        'file="/etc/dcd/secrets/live"',
        'http_proxy="http://proxy.example.com:3128"',
        'hashed="true"',
        'chap_name="initiator"',
        f"curl --user me:{WITHHELD} https://{WITHHELD}@example.com/file",
        f"CODE={WITHHELD}",
    ):
        assert kept in text
    restore(text)  # It is a manifest still.


def test_a_manifest_without_secrets_is_the_same_to_the_byte() -> None:
    text = MANIFEST.replace("me:in-a-url@", "").replace(f"{HASH}", "").replace("${code}", "")
    text = text.replace(' chap_password="chap-secret-of-the-disk"', "").replace(
        ' hashed="true"', ""
    )
    text = text.replace("<password></password>", '<password locked="true"/>')
    canonical = load(text, "/m.xml", parameters={}).canonical
    assert withheld(canonical).text == canonical
    assert withheld(canonical).secrets == frozenset()


def test_parameters_that_became_secrets_are_withheld(canonical: str) -> None:
    given = {
        "code": "opensesame",
        "part": "sesame",
        "around": "--password=opensesame",
        "proxy": "http://user:word@proxy/",
        "host": "box",
        "empty": "",
    }
    assert withheld(canonical).values(given) == {
        "code": WITHHELD,
        "part": WITHHELD,
        "around": f"--password={WITHHELD}",
        "proxy": f"http://{WITHHELD}@proxy/",
        "host": "box",
        "empty": "",
    }


def test_a_doc_loses_them_too(canonical: str) -> None:
    doc = restore(canonical)
    withhold(doc)
    assert [secret for secret in SECRETS if secret in doc.to_text()] == []
    assert doc.find_path("//plain/password.text") == [""]


def test_every_secret_field_is_a_field() -> None:
    secret = {(cls.__name__, name) for cls in BUILTIN.classes for name in cls.SECRETS}
    assert secret == {("Password", "text"), ("Debconf", "text"), ("Iscsi", "chap_password")}
    assert all(hasattr(cls, name) for cls in BUILTIN.classes for name in cls.SECRETS)


def test_every_field_that_is_called_a_password_is_secret() -> None:
    """A new element for a secret is declared as one."""
    suspicious = {
        (cls.__name__, field)
        for cls in BUILTIN.classes
        for field in cls.__annotations__
        if "password" in field.lower() or "secret" in field.lower()
    }
    references = {("Iscsi", "chap_password_file"), ("Iscsi", "chap_password_env")}
    known = {(cls.__name__, name) for cls in BUILTIN.classes for name in cls.SECRETS}
    assert suspicious - references <= known


def test_arguments_for_passwords_are_withheld() -> None:
    path = "solaris_install/distro_const/checkpoints/pre_pkg_img_mod"
    start, end = MANIFEST.index("<checkpoint"), MANIFEST.index("</checkpoint>")
    checkpoint = (
        f'<checkpoint name="script" mod_path="{path}" checkpoint_class="TextPrePkgImgMod">'
        '<kwargs><arg name="root_password">of-the-root</arg></kwargs>'
    )
    text = MANIFEST[:start] + checkpoint + MANIFEST[end:]
    seen = withheld(load(text, "/m.xml", parameters={"code": "opensesame"}).canonical)
    assert "of-the-root" not in seen.text
    assert "of-the-root" in seen.secrets
    assert f'<arg name="root_password">{WITHHELD}</arg>' in seen.text
