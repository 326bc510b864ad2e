"""The two stages of TransferDEB: what each downloads, and when the rest does not suit its base. Real apt, and
a real mirror of tiny packages."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.interface import Stage, UnsuitedBase
from dcd.checkpoints.transfer import deb
from dcd.checkpoints.transfer.deb import TransferDEB
from dcd.checkpoints.transfer.deb_base import (
    choose_base,
    choose_rest,
    chosen_ahead,
    same_packages,
)
from dcd.platform.apt import host_apt, host_sources
from dcd.platform.apt_root import Place, apt_settings, reachable, transfers, update
from statemachine.errors import CheckpointError
from store.packages import Packages
from tests.dcd.checkpoints.debian import SUITE, install, software

pytestmark = [pytest.mark.root, pytest.mark.slow]

VARIANT = ("app",)


@pytest.fixture(autouse=True)
def mounts(request: pytest.FixtureRequest) -> None:
    """As a worker's: what root shows to apt's user is mounted."""
    if os.geteuid() == 0:
        request.getfixturevalue("own_mounts")


@pytest.fixture
def offered(stocked: Any) -> Any:
    """`app` needs `lib`; `other` does too; `instead` takes the place of `lib`."""
    stocked.publish(
        "test",
        ("app", "Depends: lib | instead\n"),
        ("lib", ""),
        ("other", "Depends: lib\n"),
        ("instead", "Conflicts: lib\nProvides: lib\n"),
    )
    return stocked


@contextmanager
def installed(bench: Any, *names: str) -> Iterator[Place]:
    """The root with these packages installed, and with the lists."""
    status = bench.image / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text("".join(map(stanza, names)))
    sources = host_sources()
    with reachable(bench.image) as place:
        apt_settings(place, sources=sources, architecture="amd64")
        with transfers(place, host_apt(), sources) as online:
            update(online, sources)
        yield place


def stanza(name: str) -> str:
    return (
        f"Package: {name}\nStatus: install ok installed\nVersion: 1.0\nArchitecture: amd64\n"
        "Maintainer: nobody\nDescription: x\n\n"
    )


def names_of(files: Any) -> set[str]:
    return {name.split("_")[0] for name in files}


def test_the_rest_is_what_one_installation_adds_to_the_base(bench: Any, offered: Any) -> None:
    with installed(bench, "app", "lib") as place:
        chosen = choose_rest(place, VARIANT, ("other",))
        assert names_of(chosen.wanted) == {"other"}
        with pytest.raises(UnsuitedBase, match="other_1"), same_packages(place, {}, chosen):
            pass
        status = bench.image / "var/lib/dpkg/status"
        with same_packages(place, {}, chosen):
            status.write_text(status.read_text() + stanza("other"))
        with pytest.raises(UnsuitedBase, match="stray_1"), same_packages(place, {}, chosen):
            status.write_text(status.read_text() + stanza("stray"))


def test_a_listed_package_that_takes_the_place_of_one_does_not_suit_the_base(
    bench: Any, offered: Any
) -> None:
    with installed(bench, "app", "lib") as place, pytest.raises(UnsuitedBase, match="lib_1"):
        choose_rest(place, VARIANT, ("instead",))


@pytest.mark.parametrize(
    ("listed", "downloaded"),
    [("other", {"app", "lib", "other"}), ("instead", {"app", "lib"})],
)
def test_the_rest_is_downloaded_for_the_store_while_the_base_is_installed(
    bench: Any,
    offered: Any,
    packages: Packages,
    monkeypatch: pytest.MonkeyPatch,
    listed: str,
    downloaded: set[str],
) -> None:
    monkeypatch.setattr(deb, "_BASE", {"essential": VARIANT})
    doc = bench.doc(software(install(listed), SUITE, image='variant="essential"'))
    checkpoint = TransferDEB("t")
    lent = packages.lend("attempt", "packages")
    resolved: list[str] = []
    context = replace(
        bench.context(doc, external=checkpoint.external_state(doc)),
        packages=lent,
        resolve=resolved.append,
        stage=Stage.BASE,
    )
    checkpoint.execute(context)
    packages.take_in(lent)
    requested = {Path(path).name for path in offered.requests if path.endswith(".deb")}
    assert names_of(requested) == downloaded
    (name,) = resolved
    found = packages.lend("later", "packages").listed(name)
    assert found is not None
    assert {each.name for each in found.packages} == {"app", "lib"}, "the rest is not part of it"


def test_another_solution_on_the_base_does_not_suit_it(
    bench: Any, stocked: Any, packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed, `lib` does not keep apt from `instead`, which was not downloaded."""
    stocked.publish(
        "test",
        ("app", "Depends: lib\n"),
        ("lib", ""),
        ("either", "Depends: instead | more\n"),
        ("instead", "Conflicts: lib\n"),
        ("more", ""),
    )
    monkeypatch.setattr(deb, "_BASE", {"essential": VARIANT})
    doc = bench.doc(software(install("either"), SUITE, image='variant="essential"'))
    checkpoint = TransferDEB("t")
    resolved: list[str] = []

    def run(stage: Stage, below: str = "") -> None:
        lent = packages.lend(stage.value, "packages")
        context = bench.context(doc, external=checkpoint.external_state(doc))
        with_store = replace(context, packages=lent, resolve=resolved.append)
        checkpoint.execute(replace(with_store, stage=stage, below=below))
        packages.take_in(lent)

    run(Stage.BASE)
    requested = {Path(path).name for path in stocked.requests if path.endswith(".deb")}
    assert names_of(requested) == {"app", "lib", "either", "more"}
    (bench.image / "var/lib/dpkg/status").write_text(stanza("app") + stanza("lib"))
    with pytest.raises(UnsuitedBase, match="instead_1"):
        run(Stage.REST, resolved[0])


def test_the_rest_takes_over_the_choice_that_was_made_with_the_base(
    bench: Any, offered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deb, "_BASE", {"essential": VARIANT})
    doc = bench.doc(software(install("other"), SUITE, image='variant="essential"'))
    context = replace(bench.context(doc), stage=Stage.BASE)
    handed: list[str] = []
    with installed(bench) as place:
        apt = {"APT_CONFIG": str(place.settings)}
        choose_base(replace(context, hand_on=handed.append), apt, VARIANT, ("other",))
    later = replace(context, handed=handed[0], stage=Stage.REST)
    chosen = chosen_ahead(later)
    assert names_of(chosen) == {"app", "lib", "other"}
    with installed(bench, "app", "lib") as place:
        computed = choose_rest(place, VARIANT, ("other",))
        assert choose_rest(place, VARIANT, ("other",), chosen) == computed
    for unknown in ("", "{}", "no list"):
        assert chosen_ahead(replace(later, handed=unknown)) is None, "it is computed again"


def test_packages_without_a_solution_fail_before_the_base_is_made(
    bench: Any, offered: Any, packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deb, "_BASE", {"essential": VARIANT})
    doc = bench.doc(software(install("othr"), SUITE, image='variant="essential"'))
    checkpoint = TransferDEB("t")
    context = replace(
        bench.context(doc, external=checkpoint.external_state(doc)),
        packages=packages.lend("attempt", "packages"),
        stage=Stage.BASE,
    )
    with pytest.raises(CheckpointError, match="there is no package othr") as caught:
        checkpoint.execute(context)
    assert "<name>other</name>" in caught.value.resolution
