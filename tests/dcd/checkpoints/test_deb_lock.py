"""Locks of transfers of Debian packages: what they ask for, what has changed since, and the check of what a
transfer has resolved to."""

import itertools
import shutil
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from dcd.checkpoints.transfer.deb import TransferDEB
from dcd.checkpoints.transfer.deb_lock import other_keyrings
from dcd.checkpoints.transfer.listed import software_of
from dcd.engine.package_locks import locked_transfer
from dcd.manifest.lock import LockedRepository, LockedTransfer
from statemachine.errors import CheckpointError
from statemachine.plan import Locked
from store.packages import Packages
from store.resolved import encoded
from tests.dcd.checkpoints.debian import SUITE, install, software
from tests.dcd.checkpoints.test_deb_store import transfer_with_store

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.usefixtures("own_mounts")]

SOFTWARE = software(install("app"), SUITE)


@pytest.fixture(autouse=True)
def one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same package has the same bytes each time."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")


def publish(stocked: Any, **versions: str) -> None:
    """The packages in these versions; `app` depends on `lib`."""
    fields = {
        name: f"Version: {version}\n" + ("Depends: lib\n" if name == "app" else "")
        for name, version in versions.items()
    }
    stocked.publish("test", *fields.items())


def lock(bench: Any, stocked: Any, packages: Packages) -> LockedTransfer:
    [name] = transfer_with_store(bench, packages, SOFTWARE, capture="digests")
    return locked_transfer("t", (), "amd64", packages.resolved(name))


def changes(
    bench: Any, locked: LockedTransfer, *elements: str, inputs: dict[str, str] | None = None
) -> list[tuple[int, str, str]]:
    doc, checkpoint = bench.doc(*(elements or (SOFTWARE,))), TransferDEB("t")
    found = checkpoint.changes_since(doc, locked, checkpoint.external_state(doc), inputs or {})
    return [(each.line, each.message, each.why) for each in found]


def test_a_lock_says_what_the_manifest_asks_for_each_with_its_line(bench: Any) -> None:
    pin = '<pin package="a*" pin="release n=test" priority="900"/>'
    never = '<software_data action="uninstall"><name>x</name></software_data>'
    data = f"{pin}\n{install('app', 'lib=1.0')}\n{never}"
    found = TransferDEB("t").lockable(bench.doc(software(data, SUITE)))
    assert [(ask.text, ask.place.line) for ask in found.asks if ask.place] == [
        ("variant custom", 1),
        ("repository of the host test main", 1),
        ("pin a*: release n=test 900", 2),
        ("install app", 3),
        ("install lib=1.0", 3),
        ("uninstall x", 4),
    ]
    assert found.architecture.text == "amd64"


def test_nothing_changes_while_the_repository_is_the_same(
    bench: Any, stocked: Any, packages: Packages
) -> None:
    publish(stocked, app="1.0", lib="1.0")
    locked = lock(bench, stocked, packages)
    assert [(each.name, each.version) for each in locked.packages] == [
        ("app", "1.0"),
        ("lib", "1.0"),
    ]
    before = sum(stocked.requests.values())
    assert changes(bench, locked) == []
    assert sum(stocked.requests.values()) - before <= 2, "only release files are fetched"


def test_changes_of_a_repository_are_named_with_the_packages(
    bench: Any, stocked: Any, packages: Packages
) -> None:
    publish(stocked, app="1.0", lib="1.9")
    locked = lock(bench, stocked, packages)
    name = f"the repository {stocked.uri} test has changed since the lock was made"

    publish(stocked, app="1.0", lib="1.10")
    first, *rest = changes(bench, locked)
    assert first[:2] == (1, name)
    assert [each[:2] for each in rest] == [(1, "package lib 1.9 -> 1.10")]

    publish(stocked, app="0.9")
    first, *rest = changes(bench, locked)
    assert [each[1] for each in rest] == [
        "package app 1.0 -> 0.9",
        "package lib 1.9 is gone from its repository",
    ]

    stocked.publish("test", ("app", "Depends: lib\n"), ("lib", "Version: 1.9\nSection: new\n"))
    assert [each[1] for each in changes(bench, locked)[1:]] == [
        "package lib 1.9 has another digest in its repository now"
    ]

    publish(stocked, app="1.0", lib="1.9", other="1.0")
    [first] = changes(bench, locked)
    assert first[1] == name
    assert "All locked packages are still there" in first[2]


def test_a_repository_that_the_lock_does_not_have_is_named(
    bench: Any, stocked: Any, packages: Packages
) -> None:
    locked = lock(bench, stocked, packages)
    stocked.publish("other", ("more", ""))
    other = f'<repository suite="other" uri="{stocked.uri}"/>'
    [found] = changes(bench, locked, software(install("app"), f"{SUITE}\n{other}"))
    assert found[:2] == (2, f"the lock does not have the repository {stocked.uri} other")


def test_a_transfer_that_resolves_to_other_packages_than_its_lock_fails_and_names_them(
    bench: Any, stocked: Any, packages: Packages
) -> None:
    [name] = transfer_with_store(bench, packages, SOFTWARE, capture="packages")
    listed = packages.resolved(name)
    altered = replace(
        listed,
        packages=tuple(
            replace(each, version="1.1") if each.name == "lib" else each for each in listed.packages
        ),
    )
    lent = packages.lend("other")
    altered_name = lent.add(encoded(altered))
    packages.take_in(lent)
    doc, checkpoint = bench.doc(SOFTWARE), TransferDEB("t")
    for lists, fetch in itertools.product(((name,), (altered_name,)), (True, False)):
        shutil.rmtree(bench.image)
        bench.image.mkdir()
        context = replace(
            bench.context(doc, external=checkpoint.external_state(doc)),
            packages=packages.lend("attempt", "packages"),
            locked=Locked(lists, exactly=True, fetch=fetch),
        )
        with pytest.raises(CheckpointError) as failed:
            checkpoint.execute(context)
        refused = "are not those of the lock" in failed.value.brief
        assert refused == (lists != (name,))
        if refused:
            assert "lib 1.1 amd64" in failed.value.details


def test_another_keyring_is_drift_and_is_named(
    bench: Any, stocked: Any, packages: Packages
) -> None:
    locked = lock(bench, stocked, packages)
    name = f"{stocked.uri} test"
    key = f'<repository suite="test" uri="{stocked.uri}" signed_by="keys/one.gpg"/>'
    signed = msgspec.structs.replace(
        locked,
        repositories=(LockedRepository(uri=stocked.uri, suite="test", keyrings=("1" * 64,)),),
    )
    elements = software(install("app"), key)
    doc = bench.doc(elements)

    def found(inputs: dict[str, str], transfer: LockedTransfer = signed) -> list[str]:
        wanted = software_of(doc, TransferDEB("t"), "DEB")
        return [each.message for each in other_keyrings(wanted, transfer, inputs)]

    assert found({"keys/one.gpg": "1" * 64}) == []
    changed = f"the keyring of the repository {name} has changed since the lock was made"
    assert found({"keys/one.gpg": "2" * 64}) == [changed]
    trusted = LockedRepository(uri=stocked.uri, suite="test", trusted=True)
    [message] = found(
        {"keys/one.gpg": "1" * 64}, msgspec.structs.replace(locked, repositories=(trusted,))
    )
    assert "was trusted without a signature" in message


def test_a_lock_has_how_each_repository_was_checked(
    bench: Any, stocked: Any, packages: Packages
) -> None:
    [name] = transfer_with_store(bench, packages, SOFTWARE, capture="packages")
    locked = locked_transfer("t", (), "amd64", packages.resolved(name))
    assert [(each.uri, each.trusted) for each in locked.repositories] == [(stocked.uri, True)]
    assert changes(bench, locked) == []
