"""Locks with a real daemon, without repositories: what `validate` finds, and what is refused before a build
exists. Builds with locks are in tests/system/test_package_store.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli import client
from cli.client import ClientError
from cli.locks import lock_text

pytestmark = [pytest.mark.root, pytest.mark.daemon]

DIGEST = "a" * 64

MANIFEST = """<dc><distro name="small">
<software name="packages" type="DEB">
<destination><image variant="essential" architecture="amd64"/></destination>
<source><repository suite="test" uri="http://127.0.0.1:1/"/></source>
<software_data><name>less</name> <name>NAME</name></software_data>
</software>
<execution><checkpoint name="packages" mod_path="dcd/checkpoints/transfer/deb"
checkpoint_class="TransferDEB"/>MORE</execution></distro></dc>
"""

ASKS = (
    "variant essential",
    "repository http://127.0.0.1:1/ test main",
    "install less",
    "install ed",
)


def written(directory: Path, name: str = "ed", more: str = "", text: str = MANIFEST) -> Path:
    path = directory / "small.xml"
    path.write_text(text.replace("NAME", name).replace("MORE", more))
    return path


def locked(directory: Path, **changed: Any) -> Path:
    """The lock of the manifest with `ed`; `changed` are other values of its transfer, or of itself."""
    transfer: dict[str, Any] = {
        "checkpoint": "packages",
        "architecture": "amd64",
        "asks": ASKS,
        "files": [
            {"uri": "http://127.0.0.1:1/", "suite": "test", "path": "InRelease", "sha256": DIGEST}
        ],
        "packages": [
            {
                "name": "ed",
                "version": "1.19-1",
                "architecture": "amd64",
                "sha256": DIGEST,
                "size_bytes": 1,
                "uri": "http://127.0.0.1:1/ed.deb",
            }
        ],
    }
    lock: dict[str, Any] = {"format": "dcd-lock", "version": 1, "name": "small", "parameters": {}}
    lock |= {"profiles": [], "transfers": [transfer]}
    for name, value in changed.items():
        (transfer if name in transfer else lock)[name] = value
    path = directory / "small.lock"
    path.write_text(lock_text(lock))
    return path


def found(daemon: Any, manifest: Path, lock: Path) -> list[tuple[int, str]]:
    result = daemon.run("validate", manifest, "--locked", lock, "--json")
    answer = json.loads(result.stdout)
    assert result.returncode == (0 if answer["ok"] else 8)
    for each in answer["diagnostics"]:
        assert "dcctl lock" in each["suggestion"]
    return [(each["line"], each["message"]) for each in answer["diagnostics"]]


def test_a_manifest_that_asks_for_what_its_lock_has_is_valid(daemon: Any, tmp_path: Path) -> None:
    assert found(daemon, written(tmp_path), locked(tmp_path)) == []


def test_drift_of_a_manifest_is_named_with_its_line(daemon: Any, tmp_path: Path) -> None:
    assert found(daemon, written(tmp_path, "nano"), locked(tmp_path)) == [
        (3, "the lock has 'install ed', which the manifest does not ask for"),
        (5, "the lock does not have 'install nano'"),
    ]
    other = MANIFEST.replace('suite="test"', 'suite="new"').replace("essential", "minbase")
    assert (4, "the lock does not have 'repository http://127.0.0.1:1/ new main'") in found(
        daemon, written(tmp_path, text=other), locked(tmp_path)
    )
    assert found(daemon, written(tmp_path), locked(tmp_path, architecture="arm64")) == [
        (3, "the lock is for arm64, and the image is for amd64")
    ]
    assert [
        text for _, text in found(daemon, written(tmp_path), locked(tmp_path, checkpoint="x"))
    ] == [
        "the lock has no packages of packages",
        "the lock has packages of x, which is no transfer",
    ]
    parameters = {"suite": "sid"}
    assert found(daemon, written(tmp_path), locked(tmp_path, parameters=parameters)) == [
        (0, "the lock was made with the parameter suite set to 'sid', now it is not set")
    ]
    assert found(daemon, written(tmp_path), locked(tmp_path, profiles=["p"])) == [
        (0, "the lock was made with other profiles: p")
    ]


def test_an_offline_build_names_what_the_package_store_lacks(daemon: Any, tmp_path: Path) -> None:
    for command in ("submit", "plan"):
        lock = locked(tmp_path)
        result = daemon.run(command, written(tmp_path), "--locked", lock, "--offline")
        assert result.returncode == 11
        assert "missing: ed 1.19-1 amd64" in result.stderr
        assert "dcctl export" in result.stderr
    result = daemon.run("submit", written(tmp_path), "--offline")
    assert result.returncode == 2
    assert "an offline build needs a lock" in result.stderr
    assert daemon.json("list", "--all") == []


def test_what_cannot_be_locked_is_refused(daemon: Any, tmp_path: Path) -> None:
    ips = MANIFEST.replace('type="DEB"', 'type="IPS"').replace(
        '<repository suite="test" uri="http://127.0.0.1:1/"/>',
        '<publisher><origin name="http://127.0.0.1:1/"/></publisher>',
    )
    ips = ips.replace('variant="essential" architecture="amd64"', "")
    ips = ips.replace("transfer/deb", "transfer/ips").replace("TransferDEB", "TransferIPS")
    result = daemon.run("lock", written(tmp_path, text=ips), "-o", tmp_path / "new.lock")
    assert (result.returncode, "the packages of packages cannot be locked" in result.stderr) == (
        8,
        True,
    )
    script = (
        '<dc><distro name="none"><execution><checkpoint name="a" mod_path="dcd/checkpoints/custom_script" '
        'checkpoint_class="CustomScript"><args>true</args></checkpoint></execution></distro></dc>'
    )
    result = daemon.run("lock", written(tmp_path, text=script), "-o", tmp_path / "new.lock")
    assert (result.returncode, "there is nothing to lock" in result.stderr) == (8, True)
    assert not (tmp_path / "new.lock").exists()
    result = daemon.run("lock", written(tmp_path), "-o", locked(tmp_path))
    assert (result.returncode, "exists already" in result.stderr) == (6, True)


def altered(lock: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    [transfer] = lock["transfers"]
    [package], [file] = transfer["packages"], transfer["files"]
    for part in (lock, transfer, package, file):
        if name in part:
            part[name] = value
            return lock
    return {**lock, name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 2),
        ("format", "x"),
        ("unknown", 1),
        ("transfers", []),
        ("sha256", "../../etc/passwd"),
        ("sha256", "A" * 64),
        ("size_bytes", -1),
        ("size_bytes", 1.5),
        ("uri", "x" * 5000),
        ("asks", ["x"] * 20_001),
        ("checkpoint", ""),
    ],
)
def test_a_hostile_lock_is_refused(daemon: Any, tmp_path: Path, name: str, value: Any) -> None:
    lock = altered(json.loads(locked(tmp_path).read_text()), name, value)
    body = {"manifest": {"path": "/x.xml", "text": written(tmp_path).read_text()}, "lock": lock}
    for path in ("/v1/validate", "/v1/plan", "/v1/builds"):
        with pytest.raises(ClientError) as refused:
            client.request(str(daemon.socket), "POST", path, body=body)
        assert refused.value.kind == "usage", refused.value


def test_a_lock_is_for_one_build(daemon: Any, tmp_path: Path) -> None:
    result = daemon.run(
        "submit", written(tmp_path), "--locked", locked(tmp_path), "--matrix", "profile=a,b"
    )
    assert (result.returncode, "a lock is for one build" in result.stderr) == (2, True)
