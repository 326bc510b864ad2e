"""What build servers share, and what of it they believe."""

import asyncio
import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dcd.configuration import Configuration
from dcd.engine.engine import Engine
from dcd.engine.locked import has_locked
from dcd.engine.sharing import NotShared
from dcd.farm.judging import FIRST_RATE, may_be_shared, worth_sharing
from dcd.farm.link import Link
from dcd.farm.shared_inputs import fetch_inputs, fetch_package, send_inputs, unneeded_inputs
from dcd.farm.shared_layers import (
    BadManifest,
    BlobOf,
    SharedLayer,
    inputs_manifest,
    key_of_tag,
    read_inputs,
    read_manifest,
    tag_of,
)
from dcd.farm.shared_registry import read_login
from dcd.farm.sharing import SharedLayers
from dcd.planning.ground import _fitting, same_results
from dcd.platform.publishing.http import Broken
from dcd.platform.publishing.registry import Registry
from statemachine.errors import DcdError, Refused, Unprepared
from statemachine.events import CheckpointCompleted, InputFile
from statemachine.keys import chain, own_digest
from statemachine.plan import Ingredient, Inputs, Locked, Plan, PlannedCheckpoint
from store.blobs import Blobs
from store.layers import Layer, LayerRecord
from store.packages import Packages
from store.resolved import Resolved, ResolvedPackage, encoded
from tests.dcd.farm.registries import Offered

KEY, CONTENT, OTHER = "a" * 64, "c" * 64, "d" * 64
MIB = 1 << 20
SHARED = SharedLayer(KEY, "", CONTENT, "overlay", "b", 4.0, BlobOf(f"sha256:{OTHER}", 7))
DONE = CheckpointCompleted("slow", 1, KEY, 4.0, content=CONTENT)


def plan(*secrets: str) -> Plan:
    """Three checkpoints, of which the second one reads these secrets."""
    return chain(
        [
            PlannedCheckpoint(name, "", "m", "C", "", (), secrets=secrets if name == "b" else ())
            for name in "abc"
        ]
    )


def build(of: Plan, **more: Any) -> Any:
    names = [planned.name for planned in of.checkpoints]
    plain = {"plan": of, "rebuild": None, "variation": None, "index": names.index}
    return SimpleNamespace(**{**plain, **more})


def test_what_takes_longer_to_move_than_to_make_stays() -> None:
    """The layers of a live image, as measured."""
    rate = FIRST_RATE
    assert worth_sharing(19.5, 666 * MIB, rate), "transfer"
    assert worth_sharing(17.6, 49 * MIB, rate), "boot archive"
    assert worth_sharing(38.0, 0, rate), "verification"
    assert not worth_sharing(2.9, 185 * MIB, rate), "compression"
    assert not worth_sharing(0.5, 238 * MIB, rate), "medium"
    assert not worth_sharing(19.5, 666 * MIB, rate / 10), "a slow network"


def test_what_reads_secrets_and_what_follows_it_stays() -> None:
    state = build(plan("/etc/dcd/secrets/x"))
    assert [may_be_shared(state, name, True) for name in "abc"] == [True, False, False]
    assert all(may_be_shared(build(plan()), name, True) for name in "abc")


def test_what_nobody_else_has_the_key_of_stays() -> None:
    salted = chain(
        replace(each, ingredients=(Ingredient("salt", "", "1"),)) for each in plan().checkpoints
    )
    assert not may_be_shared(build(salted), "a", in_farm=False)
    assert may_be_shared(build(salted), "a", in_farm=True), "another member may continue it"
    assert not may_be_shared(build(plan(), variation="other"), "a", in_farm=True)


def test_a_manifest_says_all_of_a_layer_again() -> None:
    packages = (BlobOf(f"sha256:{KEY}", 3),)
    layer = replace(SHARED, parent=OTHER, packages=packages)
    assert read_manifest(layer.manifest()) == layer
    assert key_of_tag(tag_of(KEY, "overlay")) == KEY
    assert key_of_tag("latest") is None


def changed(**annotations: str) -> bytes:
    plain = json.loads(SHARED.manifest())
    plain["annotations"] |= {f"io.dcd.layer.{name}": text for name, text in annotations.items()}
    return json.dumps(plain).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"layers": [], "annotations": {}}',
        changed(key="../../etc"),
        changed(content="none"),
        changed(parent="x"),
        changed(build="b'; --"),
        changed(build="b\0"),
        changed(seconds="long"),
        changed(seconds="nan"),
        changed(seconds="-1"),
        SHARED.manifest().replace(b'"size":7', b'"size":-1'),
        SHARED.manifest().replace(b'"size":7', b'"size":true'),
        SHARED.manifest().replace(b"sha256:" + OTHER.encode(), b"md5:1"),
    ],
)
def test_a_manifest_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(BadManifest):
        read_manifest(content)


class Log:
    """The events of the build `b`."""

    def __init__(self, *done: CheckpointCompleted) -> None:
        self._done = done

    def completed(self, build: str) -> list[Any]:
        return [SimpleNamespace(data=each) for each in self._done] if build == "b" else []

    def known_builds(self, among: list[str]) -> set[str]:
        return {"b"} & set(among)


class NoLog(Log):
    """A log without that build."""

    def known_builds(self, among: list[str]) -> set[str]:
        return set()


class Layers:
    """A store that takes every layer that the registry has."""

    name = "overlay"

    def __init__(self, record: LayerRecord) -> None:
        self._layer = Layer(record, Path("/nowhere"), 0, 0.0)

    def find(self, key: str) -> None:
        return None

    def unpack_layer(self, source: int, expected: Any) -> Layer:
        if expected.products not in (None, self._layer.record.products):
            raise Refused("it is another one")
        return self._layer


def record(**more: Any) -> LayerRecord:
    return LayerRecord(KEY, None, "b", "slow", 1, 4.0, content=CONTENT, **more)


def brought(
    tmp_path: Path, log: Any, *, in_farm: bool, **of_record: Any
) -> tuple[bool, SharedLayers]:
    """Whether a layer that the registry has is used."""
    layers = Layers(record(**of_record))
    stores: Any = SimpleNamespace(layers=layers, privileged=layers, blobs=_Aside(tmp_path))
    url = "http://127.0.0.1:9/dcd"
    settings = Configuration(state_dir=tmp_path, farm_registry=url, min_free_bytes=0)
    made = SharedLayers(lambda: settings, None, stores, log, "a" if in_farm else "")
    return asyncio.run(made.bring("mine", KEY)), made


class _Aside:
    def __init__(self, directory: Path) -> None:
        self._file = directory / "aside"

    def aside(self) -> Any:
        return self._file.open("w+b")

    def has(self, sha256: str) -> bool:
        return False

    def path(self, sha256: str) -> Path:
        return self._file


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has one layer."""
    answer = ("sha256:1", SHARED.manifest())
    monkeypatch.setattr(Registry, "get_manifest", lambda *_: answer)
    monkeypatch.setattr(Registry, "get_blob", lambda *_: iter([b"content"]))


def test_in_a_farm_only_a_content_that_an_event_names_is_taken(tmp_path: Path) -> None:
    other = replace(DONE, content=OTHER)
    for log, taken in ((Log(DONE), True), (Log(other), False), (Log(), False)):
        assert brought(tmp_path, log, in_farm=True)[0] is taken


def test_without_a_common_log_builds_of_others_are_believed_and_own_ones_looked_up(
    tmp_path: Path,
) -> None:
    assert brought(tmp_path, Log(DONE), in_farm=False)[0]
    assert not brought(tmp_path, Log(), in_farm=False)[0], "the log knows the build"
    assert brought(tmp_path, NoLog(), in_farm=False)[0]


def test_a_base_is_named_by_the_event_of_the_result_on_it(tmp_path: Path) -> None:
    result = replace(DONE, key=OTHER, content=OTHER, base=KEY, base_content=CONTENT)
    assert brought(tmp_path, Log(result), in_farm=True)[0]


def test_a_layer_whose_record_is_not_that_of_its_event_is_not_made(tmp_path: Path) -> None:
    taken, made = brought(tmp_path, Log(DONE), in_farm=True, left=("media/x",))
    assert not taken
    assert "1 refused" in made.state().summary


def test_a_registry_that_does_not_answer_is_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def broken(*_: object) -> None:
        asked.append(1)
        raise Broken("it is away")

    monkeypatch.setattr(Registry, "get_manifest", broken)
    taken, made = brought(tmp_path, Log(DONE), in_farm=True)
    assert not taken
    assert "it is away" in made.state().trouble
    assert not asyncio.run(made.bring("mine", KEY))
    assert asked == [1]


@pytest.mark.parametrize(
    "answer",
    [
        'it answers 500: {"detail":{"DriverName":"filesystem","Enclosed":{"Op":"write","Err":28}}}',
        "it answers 507: ",
        "it answers 500: write /data: no space left on device",
    ],
)
def test_a_registry_without_space_is_said_to_be_full(answer: str) -> None:
    link = Link("http://127.0.0.1:9/dcd", None)
    link.failed("a layer is not shared", KEY, Broken("it does not work", answer))
    assert "disk of the registry is full" in link.state().remedy
    link.succeeded("layers", "sent")
    assert link.state().trouble == ""
    link.failed("a layer is not shared", KEY, Broken("it does not work", "it answers 500: "))
    assert "full" not in link.state().remedy


def test_nothing_is_taken_over_or_grown_from_a_layer_that_was_brought() -> None:
    planned = replace(plan().checkpoints[0], inputs=Inputs(whole=("**",)))
    of = chain([planned])
    made = record(own=own_digest(of, 0))
    here, other = Layer(made, Path(), 0, 0.0), Layer(replace(made, brought=True), Path(), 0, 0.0)
    layers: Any = SimpleNamespace(layers=lambda: [here, other])
    assert same_results(of, 0, layers) == [here]
    grown = replace(made, base=OTHER, listed=("x",))
    found = [Layer(replace(grown, brought=each), Path(), 0, 0.0) for each in (False, True)]
    assert _fitting(replace(planned, listed=("x", "y")), OTHER, found) == found[:1]


def test_a_login_that_cannot_be_read_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Configuration(farm_registry_login="DCD_SECRET_LAYERS")
    monkeypatch.setenv("DCD_SECRET_LAYERS", "me:word")
    assert read_login(settings) == ("me", "word")
    for secret in ("word", ""):
        monkeypatch.setenv("DCD_SECRET_LAYERS", secret)
        with pytest.raises(Unprepared, match="login of the registry"):
            read_login(settings)
    monkeypatch.delenv("DCD_SECRET_LAYERS")
    with pytest.raises(Unprepared, match="farm_registry_login"):
        read_login(settings)


def test_captured_files_come_as_they_were_offered(tmp_path: Path) -> None:
    here, there = Blobs(tmp_path / "a"), Blobs(tmp_path / "b")
    digests = [sha256(content).hexdigest() for content in (b"one", b"two")]
    for content, digest in zip((b"one", b"two"), digests, strict=True):
        here.put(content, digest)
    offered = Offered()
    fetch_inputs(offered, member(there), digests, None, print)  # type: ignore[arg-type]
    assert not there.has(digests[0]), "nobody has offered them"
    send_inputs(offered, member(here), digests, None)  # type: ignore[arg-type]
    fetch_inputs(offered, member(there), digests[::-1], None, print)  # type: ignore[arg-type]
    assert there.path(digests[1]).read_bytes() == b"two"
    tags = list(offered.manifests)
    assert not list(unneeded_inputs(offered, tags, ())), "too young"  # type: ignore[arg-type]
    offered.manifests[tags[0]] = inputs_manifest([BlobOf(f"sha256:{digests[0]}", 3)], 0)
    assert not list(unneeded_inputs(offered, tags, digests[:1]))  # type: ignore[arg-type]
    gone = [offered.digest_of(tag) for tag in tags]
    assert list(unneeded_inputs(offered, tags, digests[1:])) == gone  # type: ignore[arg-type]


@pytest.mark.parametrize("days", [-2, -1, 2])
def test_what_is_removed_soon_or_is_not_all_there_is_offered_again(
    tmp_path: Path, days: int
) -> None:
    """Another member may remove it until the build is in the log; and who writes there may have forged it."""
    here, offered = Blobs(tmp_path / "a"), Offered()
    name = sha256(b"one").hexdigest()
    here.put(b"one", name)
    send_inputs(offered, member(here), [name], None)  # type: ignore[arg-type]
    (tag,) = offered.manifests
    now = int(time.time())
    file = BlobOf(f"sha256:{name}", 3)
    for forged in (inputs_manifest([file], now + days * 86400), inputs_manifest([], now), b"{}"):
        offered.manifests[tag] = forged
        before = offered.digest_of(tag)
        send_inputs(offered, member(here), [name], None)  # type: ignore[arg-type]
        files, at = read_inputs(offered.manifests[tag])
        assert files == [file]
        assert at >= now
        assert offered.deleted[-1] == before, "without a tag nobody would find it"
        assert not list(unneeded_inputs(offered, [tag], ()))  # type: ignore[arg-type]
    recent = offered.manifests[tag] = inputs_manifest([file], now - 5)
    send_inputs(offered, member(here), [name], None)  # type: ignore[arg-type]
    assert offered.manifests[tag] is recent


@pytest.mark.parametrize(("host", "here"), [("a", True), ("a", False), ("", True)])
def test_a_person_who_resumes_a_build_where_its_files_are_has_them_offered_again(
    tmp_path: Path, host: str, here: bool
) -> None:
    offered: list[Sequence[str]] = []
    blobs, name = Blobs(tmp_path), sha256(b"one").hexdigest()

    class Offering(NotShared):
        async def offer(self, digests: Sequence[str], locked: Locked | None) -> bool:
            offered.append(digests)
            return True

    async def state(_: str) -> Any:
        return SimpleNamespace(inputs=(InputFile("x", name),), locked=None)

    if here:
        blobs.put(b"one", name)
    builds = SimpleNamespace(state=state, host=host)
    engine: Any = SimpleNamespace(_builds=builds, _stores=member(blobs), sharing=Offering())
    asyncio.run(Engine._offer_again(engine, "b"))
    assert offered == ([[name]] if host and here else [])


def test_a_package_on_its_way_is_no_captured_file(tmp_path: Path) -> None:
    """Another user may upload the same file meanwhile."""
    name, blobs = sha256(b"deb").hexdigest(), Blobs(tmp_path / "b")
    there = member(blobs, packages_in(tmp_path / "pb"))

    def receive(blob: BlobOf, file: Any) -> None:
        file.write(b"deb")
        file.seek(0)
        blobs.put(b"deb", name, 1000)

    fetch_package(there, BlobOf(f"sha256:{name}", 3), receive)
    assert there.packages.has(name)
    assert blobs.path(name, 1000)


def member(blobs: Blobs, packages: Packages | None = None) -> Any:
    """The stores of a member."""

    def adopt(sha256: str, source: int) -> None:
        assert packages is not None
        with os.fdopen(os.dup(source), "rb") as content:
            packages.adopt(content, sha256)

    privileged = SimpleNamespace(adopt_package=adopt)
    return SimpleNamespace(blobs=blobs, packages=packages, privileged=privileged)


def packages_in(directory: Path, *contents: bytes) -> Packages:
    found = Packages(directory)
    found.prepare()
    for content in contents:
        found.adopt(io.BytesIO(content), sha256(content).hexdigest())
    return found


@pytest.mark.parametrize("fetch", [False, True])
def test_a_locked_build_finds_its_packages_on_another_member(tmp_path: Path, fetch: bool) -> None:
    """With `fetch` only the list is needed: the packages come from the repositories."""
    deb, other = b"the package", b"another one"
    of_deb = sha256(deb).hexdigest()
    one = ResolvedPackage("deb", "one", "1", "all", of_deb, len(deb), "http://x/one.deb", True)
    text = encoded(Resolved((one,), ()))
    name = sha256(text).hexdigest()
    here = member(Blobs(tmp_path / "a"), packages_in(tmp_path / "pa", text, deb))
    there = member(Blobs(tmp_path / "b"), packages_in(tmp_path / "pb"))
    locked, offered = Locked((name,), fetch=fetch), Offered()
    send_inputs(offered, here, (), locked)  # type: ignore[arg-type]
    (tag,) = offered.manifests
    plain = json.loads(offered.manifests[tag])
    more = [{**plain["layers"][0], "digest": f"sha256:{sha256(other).hexdigest()}"}]
    offered.manifests[tag] = json.dumps({**plain, "layers": plain["layers"] + more}).encode()
    assert not has_locked(there.packages, locked)
    fetch_inputs(offered, there, (), locked, print)  # type: ignore[arg-type]
    assert has_locked(there.packages, locked)
    assert there.packages.has(of_deb) is not fetch
    assert not there.packages.has(sha256(other).hexdigest()), "the list does not name it"
    assert not there.blobs.has(name), "it was only on its way"
    assert list(unneeded_inputs(offered, [tag], {name})) == []  # type: ignore[arg-type]


def test_a_list_that_is_another_one_does_not_come(tmp_path: Path) -> None:
    name, offered = sha256(b"list").hexdigest(), Offered()
    there = member(Blobs(tmp_path / "b"), packages_in(tmp_path / "pb"))
    locked = Locked((name,), fetch=True)
    here = member(Blobs(tmp_path / "a"), packages_in(tmp_path / "pa", b"list"))
    send_inputs(offered, here, (), locked)  # type: ignore[arg-type]
    offered.blobs = dict.fromkeys(offered.blobs, b"liar")
    with pytest.raises(DcdError):
        fetch_inputs(offered, there, (), locked, print)  # type: ignore[arg-type]
    assert not has_locked(there.packages, locked)


def test_a_member_waits_for_captured_files_while_the_registry_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise Broken("it is away")

    _, made = brought(tmp_path, Log(), in_farm=True)
    assert asyncio.run(made.fetch([KEY], None)), "what nobody offers does not come later"
    monkeypatch.setattr(Registry, "get_manifest", broken)
    assert not asyncio.run(made.fetch([KEY], None))
    monkeypatch.setattr(Registry, "digest_of", broken)
    assert not asyncio.run(made.offer([KEY], None))
