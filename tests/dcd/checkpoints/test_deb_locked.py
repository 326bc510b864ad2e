"""Transfers of locked builds: from what earlier ones captured, without the mirror."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.transfer.deb import TransferDEB
from statemachine.errors import CheckpointError
from statemachine.plan import Locked
from store.packages import Packages
from tests.dcd.checkpoints.debian import SUITE, install, software
from tests.dcd.checkpoints.test_deb_store import beside, digest, transfer_with_store

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.usefixtures("own_mounts")]

SOFTWARE = software(install("app"), SUITE)


def captured(bench: Any, stocked: Any, packages: Packages, version: str) -> str:
    """The list of a transfer of `app` and `lib` in this version."""
    fields = f"Version: {version}\n"
    stocked.publish("test", ("app", f"{fields}Depends: lib\n"), ("lib", fields))
    [name] = transfer_with_store(bench, packages, SOFTWARE, capture="packages")
    empty(bench)
    return name


def empty(bench: Any) -> None:
    shutil.rmtree(bench.image)
    bench.image.mkdir()


def locked(
    bench: Any,
    packages: Packages,
    lock: Locked,
    manifest: str = SOFTWARE,
    inputs: Mapping[str, Path] | None = None,
) -> str:
    """The list of a locked transfer. The tiny packages make no system, so their installation fails."""
    doc = bench.doc(manifest)
    lent = packages.lend("attempt", "packages")
    named: list[str] = []
    context = replace(
        bench.context(doc, inputs=inputs),
        packages=lent,
        resolve=named.append,
        locked=lock,
        environment={},
    )
    with pytest.raises(CheckpointError) as failed:
        TransferDEB("t").execute(context)
    packages.take_in(lent)
    empty(bench)
    assert named, failed.value
    return named[0]


def versions(packages: Packages, name: str) -> dict[str, str]:
    return {each.name: each.version for each in packages.resolved(name).packages}


def test_packages_come_from_one_list_or_chosen_ones_from_two_and_nothing_from_the_mirror(
    bench: Any, stocked: Any, packages: Packages
) -> None:
    old, new = (captured(bench, stocked, packages, version) for version in ("1.0", "2.0"))
    assert versions(packages, old) == {"app": "1.0", "lib": "1.0"}
    assert versions(packages, new) == {"app": "2.0", "lib": "2.0"}
    before = sum(stocked.requests.values())

    assert locked(bench, packages, Locked((old,))) == old
    assert locked(bench, packages, Locked((new,))) == new
    for chosen in ({"app": "2.0", "lib": "1.0"}, {"app": "1.0", "lib": "2.0"}):
        mixed = locked(bench, packages, Locked((old, new), chosen))
        assert versions(packages, mixed) == chosen
    assert sum(stocked.requests.values()) == before


def test_packages_beside_the_manifest_come_from_it_once_more(
    bench: Any, stocked: Any, packages: Packages, tmp_path: Path
) -> None:
    stocked.publish("test", ("lib", ""))
    manifest = software(install("secret"), f'{SUITE}<repository source="debs"/>')
    first = {"debs": beside(tmp_path / "first", "secret", "Depends: lib\n")}
    [name] = transfer_with_store(bench, packages, manifest, capture="packages", inputs=first)
    empty(bench)
    before = sum(stocked.requests.values())

    assert locked(bench, packages, Locked((name,)), manifest, first) == name
    changed = {"debs": beside(tmp_path / "second", "secret", "Depends: lib\n", "changed")}
    other = locked(bench, packages, Locked((name,)), manifest, changed)
    assert {(each.name, each.sha256) for each in packages.resolved(other).packages} == {
        ("lib", digest(stocked.directory / "pool/lib_1.0_amd64.deb")),
        ("secret", digest(tmp_path / "second/secret_1.0_amd64.deb")),
    }
    assert sum(stocked.requests.values()) == before


def test_a_list_or_a_package_that_is_lost_is_an_error(
    bench: Any, stocked: Any, packages: Packages
) -> None:
    name = captured(bench, stocked, packages, "1.0")
    doc, lent = bench.doc(SOFTWARE), packages.lend("attempt", "packages")
    context = replace(bench.context(doc), packages=lent, locked=Locked(("0" * 64,)))
    with pytest.raises(CheckpointError, match="list of the locked packages is lost"):
        TransferDEB("t").execute(context)
    [deb] = [each for each in packages.resolved(name).packages if each.name == "lib"]
    packages.remove(deb.sha256)
    empty(bench)
    context = replace(bench.context(doc), packages=lent, locked=Locked((name,)))
    with pytest.raises(Exception, match=r"lib_1\.0"):
        TransferDEB("t").execute(context)
