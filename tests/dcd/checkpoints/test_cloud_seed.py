"""CloudInitSeed: what cloud-init's source NoCloud finds."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.cloud.seed import CloudInitSeed
from dcd.manifest.diagnostics import refuse
from statemachine.errors import CheckpointError, InvalidManifest
from tests.dcd.checkpoints.conftest import KEY

EPOCH = 1_700_000_000
CONFIGURATION = f"""<configuration name="seed">
<user name="ada" full_name="Ada Lovelace" groups="adm sudo" shell="/bin/bash" uid="1007">
<password>secret</password><ssh_key>{KEY}</ssh_key><sudo nopasswd="true"/></user>
<user name="bob"><password locked="true"/><sudo/></user>
<interface match="en*"/>
<interface match="eth1" dhcp="false" address="192.0.2.10/24 2001:db8::10/64" gateway="192.0.2.1 2001:db8::1"
 dns="192.0.2.53" domains="example.org"/>
</configuration>"""


def made(bench: Any, *elements: str, inputs: Any = None, **arguments: Any) -> Path:
    checkpoint = CloudInitSeed("seed", **arguments)
    doc = bench.doc(*elements)
    refuse(checkpoint.check(doc))
    environment = {"SOURCE_DATE_EPOCH": str(EPOCH)}
    checkpoint.execute(bench.context(doc, inputs=inputs, environment=environment))
    result: Path = bench.root / (bench.artifacts[-1].path if bench.artifacts else "pkg_image")
    return result


def content(iso: Path, directory: Path) -> dict[str, str]:
    """The files of the ISO, read by another program than the one that made it."""
    subprocess.run(["bsdtar", "-x", "-f", iso, "-C", directory], check=True)
    found = {path.name: path.read_text() for path in directory.iterdir()}
    for path in directory.iterdir():
        path.chmod(0o600)
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_the_configuration_becomes_an_iso_for_cloud_init(bench: Any, out: Path) -> None:
    iso = made(bench, CONFIGURATION)
    label = subprocess.check_output(["blkid", "-p", "-s", "LABEL", "-o", "value", iso], text=True)
    assert (iso.name, label.strip().lower()) == ("test-seed.iso", "cidata")
    files = content(iso, out)
    assert set(files) == {"user-data", "meta-data", "network-config"}
    header, _, text = files["user-data"].partition("\n")
    assert header == "#cloud-config"
    data = json.loads(text)
    ada, bob = data["users"]
    password = ada.pop("passwd")
    salted = ["openssl", "passwd", "-6", "-salt", password.split("$")[2], "secret"]
    assert subprocess.check_output(salted, text=True).strip() == password
    assert ada == {
        "name": "ada",
        "gecos": "Ada Lovelace",
        "uid": 1007,
        "groups": "adm, sudo",
        "shell": "/bin/bash",
        "ssh_authorized_keys": [KEY],
        "sudo": "ALL=(ALL:ALL) NOPASSWD:ALL",
        "lock_passwd": False,
    }
    assert bob == {"name": "bob", "sudo": "ALL=(ALL:ALL) ALL", "lock_passwd": True}
    assert json.loads(files["network-config"]) == {
        "version": 2,
        "ethernets": {
            "id0": {"match": {"name": "en*"}, "dhcp4": True, "dhcp6": True},
            "eth1": {
                "dhcp4": False,
                "dhcp6": False,
                "addresses": ["192.0.2.10/24", "2001:db8::10/64"],
                "gateway4": "192.0.2.1",
                "gateway6": "2001:db8::1",
                "nameservers": {"addresses": ["192.0.2.53"], "search": ["example.org"]},
            },
        },
    }


def test_the_instance_is_another_where_the_data_is_another(bench: Any) -> None:
    def instance() -> str:
        text = (bench.image / "var/lib/cloud/seed/nocloud/meta-data").read_text()
        identity: str = json.loads(text)["instance-id"]
        return identity

    found = []
    for name in ("ada", "ada", "eve"):
        made(
            bench,
            f'<configuration name="seed"><user name="{name}"/></configuration>',
            place="image",
        )
        found.append(instance())
    assert found[0] == found[1] != found[2]


def test_the_same_seed_has_the_same_bytes(bench: Any) -> None:
    first = made(bench, CONFIGURATION).read_bytes()
    assert made(bench, CONFIGURATION).read_bytes() == first


def test_files_of_the_manifests_side_are_taken_as_they_are(
    bench: Any, out: Path, tmp_path: Path
) -> None:
    inputs = {}
    for name in ("user", "meta", "network"):
        inputs[name] = tmp_path / name
        inputs[name].write_text(f"#cloud-config\n# {name}\n")
    arguments = {"user_data": "user", "meta_data": "meta", "network_config": "network"}
    files = content(made(bench, inputs=inputs, **arguments), out)
    assert files == {
        "user-data": "#cloud-config\n# user\n",
        "meta-data": "#cloud-config\n# meta\n",
        "network-config": "#cloud-config\n# network\n",
    }
    assert not any(report.warning for report in bench.reports)


def test_user_data_that_cloud_init_ignores_is_warned_of(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "user").write_text("users: []\n")
    made(bench, inputs={"user": tmp_path / "user"}, user_data="user")
    assert "cloud-init ignores user" in bench.messages()


def test_a_seed_in_the_image_is_for_root_alone(bench: Any) -> None:
    made(bench, CONFIGURATION, place="image", hostname="box")
    seed = bench.image / "var/lib/cloud/seed/nocloud"
    assert sorted(path.name for path in seed.iterdir()) == [
        "meta-data", "network-config", "user-data",
    ]  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in seed.iterdir()} == {0o600}
    assert json.loads((seed / "meta-data").read_text())["local-hostname"] == "box"
    assert bench.artifacts == []


def test_without_configuration_the_usual_user_of_cloud_init_stays(bench: Any, out: Path) -> None:
    files = content(made(bench), out)
    assert json.loads(files["user-data"].partition("\n")[2])["users"] == ["default"]
    assert "network-config" not in files


def test_a_part_that_a_seed_cannot_hold_is_an_error(bench: Any) -> None:
    configuration = '<configuration name="seed"><script>true</script></configuration>'
    with pytest.raises(InvalidManifest, match="takes no <script>"):
        made(bench, configuration)


def test_a_file_beside_the_same_configuration_is_warned_of(bench: Any) -> None:
    (found,) = CloudInitSeed("seed", user_data="user").check(bench.doc(CONFIGURATION))  # type: ignore[arg-type]
    assert "user_data is a file, and the configuration has <user> too" in found.message


def test_a_secret_that_is_declared_as_hashed_and_is_no_hash_is_an_error(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCD_SECRET_ADA", "in clear")
    clear = CONFIGURATION.replace(
        "<password>secret</password>", '<password env="DCD_SECRET_ADA" hashed="true"/>'
    )
    with pytest.raises(CheckpointError, match="no crypt") as caught:
        made(bench, clear)
    assert "in clear" not in f"{caught.value.brief} {caught.value.details}"
