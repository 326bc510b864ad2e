"""Which lists of the package store an offline build may use, and in whose turn a lock is made."""

import asyncio
import hashlib
from collections.abc import Collection
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest

from dcd.engine.manifests import Manifests
from dcd.engine.package_locks import PackageLocks, locked_transfer
from dcd.manifest.lock import Lock
from dcd.planner.client import DAEMON
from statemachine.errors import Unprepared
from statemachine.events import Actor
from store.packages import Packages
from store.resolved import Repository, RepositoryFile, Resolved, ResolvedPackage, encoded

DEB = b"the file of a package"
RELEASE = b"the release file"
URI = "http://deb.example.org/"


def kept(packages: Packages, content: bytes) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    packages.adopt(BytesIO(content), sha256)
    return sha256


def listed(packages: Packages, **repository: Any) -> Resolved:
    deb, release = kept(packages, DEB), kept(packages, RELEASE)
    return Resolved(
        (ResolvedPackage("deb", "ed", "1", "amd64", deb, len(DEB), f"{URI}ed.deb", True),),
        (RepositoryFile(URI, "test", "InRelease", release, len(RELEASE), release),),
        (Repository(URI, "test", ("main",), **repository),),
    )


def test_a_list_that_another_user_has_brought_is_not_used(packages: Packages) -> None:
    """It has the same packages, and says that the image has to trust the repository without a signature."""
    own = listed(packages)
    first, theirs = (
        kept(packages, encoded(each)) for each in (own, listed(packages, trusted=True))
    )
    made = {"b1": first, "b2": theirs}

    class Log:
        def locked_builds_of_others(self, users: Collection[int]) -> set[str]:
            return {"b2"} - ({"b2"} if 1000 in users else set())

        def resolved_lists(self, without: Collection[str] = ()) -> set[str]:
            return {name for build, name in made.items() if build not in without}

    layer = SimpleNamespace(record=SimpleNamespace(resolved=theirs, made_by="b2"))
    layers = SimpleNamespace(layers=lambda: [layer])
    builds: Any = SimpleNamespace(log=Log())
    stores: Any = SimpleNamespace(packages=packages, layers=layers)
    locks = PackageLocks(builds, stores, SimpleNamespace())  # type: ignore[arg-type]
    transfer = locked_transfer("t", (), "amd64", own)
    lock = Lock(
        format="dcd-lock", version=1, name="n", parameters={}, profiles=(), transfers=(transfer,)
    )

    for user in (None, 1001):
        assert locks._stored(lock, user).lists == (first,)
    del made["b1"]
    with pytest.raises(Unprepared):
        locks._stored(lock, 1001)
    assert locks._stored(lock, 1000).lists == (theirs,)
    packages.remove(theirs)
    assert locks._equal(lock, 1000, whole=False) == {}
    with pytest.raises(Unprepared):
        locks._stored(lock, 1000)


def test_a_list_with_another_keyring_than_that_of_the_lock_is_not_used(packages: Packages) -> None:
    own, other = (listed(packages, keyrings=(kept(packages, key),)) for key in (b"one", b"two"))
    made = {"b1": kept(packages, encoded(other))}
    log = SimpleNamespace(
        locked_builds_of_others=lambda users: set(),
        resolved_lists=lambda without=(): {*made.values()},
    )
    layers = SimpleNamespace(layers=list)
    builds: Any = SimpleNamespace(log=log)
    stores: Any = SimpleNamespace(packages=packages, layers=layers)
    locks = PackageLocks(builds, stores, SimpleNamespace())  # type: ignore[arg-type]
    transfer = locked_transfer("t", (), "amd64", own)
    lock = Lock(
        format="dcd-lock", version=1, name="n", parameters={}, profiles=(), transfers=(transfer,)
    )
    with pytest.raises(Unprepared, match="does not have all") as failure:
        locks._stored(lock, None)
    assert "keyrings" in failure.value.details
    made["b2"] = kept(packages, encoded(own))
    assert locks._stored(lock, None).lists == (made["b2"],)


def test_a_lock_is_made_in_the_turn_of_its_user() -> None:
    """The daemon's own questions have no limit: with these, many requests would start as many planners."""
    asked: list[Actor] = []

    class Planner:
        async def ask(self, task: Any, question: Any, actor: Actor = DAEMON) -> tuple[None, ...]:
            asked.append(actor)
            return ()

    user = Actor(1000, 1000, 1, "ada")
    settings = SimpleNamespace(checkpoint_modules=())
    manifests = Manifests(Planner(), None, lambda: settings, None)  # type: ignore[arg-type]
    state: Any = SimpleNamespace(manifest="<dc/>", plan=SimpleNamespace(checkpoints=()))
    asyncio.run(manifests.lockables(state, user))
    assert asked == [user]
