"""TransferDEB and the package store: what it takes from there, and what it captures. Real apt, and a real
mirror of tiny packages."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.transfer.deb import TransferDEB
from statemachine.errors import CheckpointError, DcdError, NotFound
from store.captured import captured_files, make_repositories, resolved_of
from store.packages import Packages
from tests.dcd.checkpoints.conftest import archive
from tests.dcd.checkpoints.debian import SUITE, install, software

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def mounts(request: pytest.FixtureRequest) -> None:
    """As a worker's: what root shows to apt's user is mounted."""
    if os.geteuid() == 0:
        request.getfixturevalue("own_mounts")


def downloads(mirror: Any) -> dict[str, int]:
    """How often each package was requested."""
    names = {Path(path).name.split("_")[0]: count for path, count in mirror.requests.items()}
    return {name: count for name, count in names.items() if name in ("app", "lib", "other")}


def transfer_with_store(
    bench: Any,
    packages: Packages,
    *elements: str,
    capture: str = "none",
    inputs: Mapping[str, Path] | None = None,
) -> list[str]:
    """Transfer with the store, as the engine lends it. The tiny packages of the mirror make no system,
    so their installation fails. Returns the lists that it named."""
    doc = bench.doc(*elements)
    checkpoint = TransferDEB("t")
    lent = packages.lend("attempt", capture)
    context = bench.context(doc, inputs=inputs, external=checkpoint.external_state(doc))
    named: list[str] = []
    with pytest.raises(CheckpointError):
        checkpoint.execute(replace(context, packages=lent, resolve=named.append))
    packages.take_in(lent)
    return named


@pytest.mark.root
def test_a_package_that_the_store_has_is_not_downloaded(
    bench: Any, stocked: Any, tmp_path: Path
) -> None:
    packages = Packages(tmp_path / "packages")
    packages.prepare()
    stocked.publish("test", ("app", "Depends: lib\n"), ("lib", ""), ("other", "Depends: lib\n"))
    transfer_with_store(bench, packages, software(install("app"), SUITE))
    assert downloads(stocked) == {"app": 1, "lib": 1}
    assert len(packages.stored()) == 2
    shutil.rmtree(bench.image)
    bench.image.mkdir()
    transfer_with_store(bench, packages, software(install("other"), SUITE))
    assert downloads(stocked) == {"app": 1, "lib": 1, "other": 1}
    assert "from the package store: 1 of 2 packages" in bench.messages()
    assert len(packages.stored()) == 3


@pytest.mark.root
def test_a_damaged_package_of_the_store_is_downloaded_again(
    bench: Any, stocked: Any, tmp_path: Path
) -> None:
    packages = Packages(tmp_path / "packages")
    packages.prepare()
    transfer_with_store(bench, packages, software(install("lib"), SUITE))
    [kept] = (packages.directory / "kept").iterdir()
    kept.chmod(0o644)
    kept.write_bytes(kept.read_bytes()[:-1] + b"\0")
    shutil.rmtree(bench.image)
    bench.image.mkdir()
    transfer_with_store(bench, packages, software(install("lib"), SUITE))
    assert downloads(stocked) == {"lib": 2}
    [kept] = (packages.directory / "kept").iterdir()
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == kept.name


@pytest.mark.root
def test_what_a_login_in_the_host_s_sources_gives_is_not_kept(
    bench: Any, stocked: Any, apt_host: Path, tmp_path: Path
) -> None:
    packages = Packages(tmp_path / "packages")
    packages.prepare()
    stocked.login = "me:secret"
    with_login = stocked.uri.replace("http://", "http://me:secret@")
    (apt_host / "sources.list").write_text(f"deb [trusted=yes] {with_login} test main\n")
    transfer_with_store(bench, packages, software(install("lib"), SUITE))
    assert downloads(stocked)["lib"] >= 1
    assert packages.stored() == []


@pytest.mark.root
def test_everything_that_apt_used_is_captured(bench: Any, stocked: Any, packages: Packages) -> None:
    [name] = transfer_with_store(
        bench, packages, software(install("app"), SUITE), capture="packages"
    )
    packages.require(name)
    resolved = packages.resolved(name)
    debs = {file.name: file for file in stocked.directory.glob("pool/*.deb")}
    assert {
        (each.name, each.version, each.architecture, each.sha256, each.size_bytes, each.uri)
        for each in resolved.packages
    } == {
        (part, "1.0", "amd64", digest(deb), deb.stat().st_size, f"{stocked.uri}pool/{deb.name}")
        for part in ("app", "lib")
        for deb in [debs[f"{part}_1.0_amd64.deb"]]
    }
    suite = stocked.directory / "dists/test"
    assert {(each.path, each.sha256) for each in resolved.files} == {
        (path, digest(suite / path)) for path in ("Release", "main/binary-amd64/Packages")
    }
    assert [(each.uri, each.suite, each.components) for each in resolved.repositories] == [
        (stocked.uri, "test", ("main",))
    ]
    # The second transfer of the same repository state has its packages from the store, and adds its list.
    before = {each.sha256 for each in packages.stored()}
    shutil.rmtree(bench.image)
    bench.image.mkdir()
    [second] = transfer_with_store(
        bench, packages, software(install("lib"), SUITE), capture="packages"
    )
    assert {each.sha256 for each in packages.stored()} - before == {second}
    assert all(each.captured for each in packages.resolved(second).packages)


@pytest.mark.root
@pytest.mark.parametrize("capture", ["none", "packages"])
def test_a_package_beside_the_manifest_is_nobody_else_s(
    bench: Any, stocked: Any, packages: Packages, tmp_path: Path, capture: str
) -> None:
    stocked.publish("test", ("lib", ""))
    inputs = {"debs": beside(tmp_path / "debs", "secret", "Depends: lib\n")}
    names = transfer_with_store(
        bench,
        packages,
        software(install("secret"), f'{SUITE}<repository source="debs"/>'),
        capture=capture,
        inputs=inputs,
    )
    private = digest(tmp_path / "debs/secret_1.0_amd64.deb")
    kept = {each.sha256 for each in packages.stored()}
    assert digest(stocked.directory / "pool/lib_1.0_amd64.deb") in kept
    assert private not in kept
    for name in names:
        [secret] = [each for each in packages.resolved(name).packages if each.name == "secret"]
        assert (secret.sha256, secret.uri, secret.captured) == (private, "", False)
        assert private not in {file.sha256 for file in captured_files(packages, [name])}
    assert len(names) == (capture == "packages")


@pytest.mark.root
def test_only_digests_are_kept_when_that_is_set(
    bench: Any, stocked: Any, packages: Packages
) -> None:
    [name] = transfer_with_store(
        bench, packages, software(install("lib"), SUITE), capture="digests"
    )
    packages.require(name)
    resolved = packages.resolved(name)
    assert [(each.name, each.captured) for each in resolved.packages] == [("lib", False)]
    assert resolved.stored() == {}
    assert transfer_with_store(bench, packages, software(install("lib"), SUITE)) == []


@pytest.mark.root
def test_apt_installs_from_a_repository_made_of_captured_files(
    bench: Any, stocked: Any, apt_host: Path, packages: Packages, public_path: Path
) -> None:
    [name] = transfer_with_store(
        bench, packages, software(install("app"), SUITE), capture="packages"
    )
    shutil.rmtree(stocked.directory)
    resolved = resolved_of(packages, [name])
    [made] = make_repositories(resolved, packages.path, public_path / "made")
    assert made.repository.trusted
    (apt_host / "sources.list").write_text(
        f"deb [trusted=yes] file:{made.directory} {made.repository.suite}"
        f" {' '.join(made.repository.components)}\n"
    )
    shutil.rmtree(bench.image)
    bench.image.mkdir()
    again = Packages(public_path / "again")
    again.prepare()
    [rebuilt] = transfer_with_store(
        bench, again, software(install("app"), SUITE), capture="packages"
    )
    assert {each.sha256 for each in again.resolved(rebuilt).packages} == {
        each.sha256 for each in resolved.packages
    }


@pytest.mark.root
def test_a_changed_captured_file_makes_no_repository(
    bench: Any, stocked: Any, packages: Packages, tmp_path: Path
) -> None:
    [name] = transfer_with_store(
        bench, packages, software(install("lib"), SUITE), capture="packages"
    )
    resolved = packages.resolved(name)
    for number, sha256 in enumerate(resolved.stored()):
        kept = packages.path(sha256)
        content = kept.read_bytes()
        kept.chmod(0o644)
        kept.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DcdError, match=r"damaged|cannot be read"):
            make_repositories(resolved, packages.path, tmp_path / f"made{number}")
        kept.write_bytes(content)
    assert captured_files(packages, [name])
    packages.remove(resolved.packages[0].sha256)
    with pytest.raises(NotFound, match="1 captured files"):
        captured_files(packages, [name])


def beside(directory: Path, name: str, fields: str = "", content: str = "") -> Path:
    """A captured directory with one package."""
    root = directory / name
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1.0\nArchitecture: amd64\nMaintainer: a\n{fields}Description: x\n"
    )
    (root / "content").write_text(content)
    subprocess.run(["dpkg-deb", "--build", root, directory], check=True, capture_output=True)
    shutil.rmtree(root)
    return archive(directory, directory.with_suffix(".tar"), "packages")


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
