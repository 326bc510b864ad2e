"""Payloads survive storage; what cannot be read says why; the hash covers everything."""

import hashlib
import json
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine import codec, upcasters
from statemachine.errors import DcdError, UsageError
from statemachine.events import Actor, BuildResumed, BuildSubmitted, PauseRequested, Payload
from statemachine.plan import Ingredient, Plan, PlannedCheckpoint

integers = st.integers(-(2**53), 2**53)
finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | integers | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
checkpoints = st.builds(
    PlannedCheckpoint,
    ingredients=st.lists(st.builds(Ingredient, line=integers), max_size=3).map(tuple),
    args=st.lists(json_values, max_size=2).map(tuple),
    kwargs=st.dictionaries(st.text(), json_values, max_size=2),
    estimate_seconds=finite,
    disk_bytes=integers,
)
plans = st.lists(checkpoints, max_size=3).map(lambda found: Plan(tuple(found)))


def payloads(cls: type[Payload]) -> st.SearchStrategy[Payload]:
    special: dict[str, st.SearchStrategy[Any]] = {
        "seconds": finite,
        "attempt": integers,
        "size_bytes": integers,
        "plan": plans | st.none() if cls is BuildResumed else plans,
        "priority": integers,
    }
    names = {field.name for field in fields(cls)}
    return st.builds(cls, **{name: how for name, how in special.items() if name in names})


@pytest.mark.parametrize("cls", codec.PAYLOADS.values(), ids=codec.PAYLOADS)
def test_every_payload_survives_storage(cls: type[Payload]) -> None:
    @given(payload=payloads(cls))
    def check(payload: Payload) -> None:
        text = codec.encode(payload)
        assert codec.decode(cls.__name__, cls.VERSION, text) == payload

    check()


def test_there_is_a_payload_for_every_event_of_the_design() -> None:
    assert set(codec.PAYLOADS) == {
        "BuildSubmitted", "BuildPlaced", "MoveRequested", "BuildStarted", "CheckpointStarted",
        "ResourceClaimed",
        "CheckpointReused", "CheckpointCompleted", "LayerDamaged", "CheckpointFailed",
        "CheckpointInterrupted", "PauseRequested", "PauseWithdrawn", "BuildPaused", "BuildResumed",
        "BuildRewound", "CancelRequested", "BuildCancelled", "ArtifactPublished", "BuildCompleted",
        "BuildFailed", "BuildRemoved",
    }  # fmt: skip


def test_stored_text_is_canonical() -> None:
    plan = Plan(())
    one = BuildSubmitted("n", "<dc/>", "/m", plan, parameters={"b": "2", "a": "1"})
    two = BuildSubmitted("n", "<dc/>", "/m", plan, parameters={"a": "1", "b": "2"})
    assert codec.encode(one) == codec.encode(two)
    assert '"parameters":{"a":"1","b":"2"}' in codec.encode(one)


def test_an_event_of_an_unknown_type_was_written_by_a_newer_dcd() -> None:
    with pytest.raises(DcdError, match="newer dcd"):
        codec.decode("CheckpointPondered", 1, "{}")


def test_an_event_of_a_newer_version_was_written_by_a_newer_dcd() -> None:
    with pytest.raises(DcdError, match="newer dcd"):
        codec.decode("BuildStarted", 2, "{}")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"before": 1}', '{"checkpoint": []}'])
def test_a_malformed_event_says_so(text: str) -> None:
    kind = "PauseRequested" if "before" in text else "BuildRewound"
    with pytest.raises(DcdError, match="malformed"):
        codec.decode(kind, 1, text)


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(UsageError, match="not Unicode"):
        codec.encode(PauseRequested(before="\udc80"))


def test_upcasters_are_applied_one_after_another() -> None:
    steps = {
        ("E", 1): lambda data: {**data, "two": 2},
        ("E", 2): lambda data: {**data, "three": data["two"] + 1},
    }
    assert upcasters.upcast("E", 1, {"one": 1}, 3, steps) == {"one": 1, "two": 2, "three": 3}


def test_a_missing_upcaster_is_an_error() -> None:
    with pytest.raises(DcdError, match="version 1 cannot be read"):
        upcasters.upcast("E", 1, {}, 3, {("E", 2): dict})


def test_every_older_version_has_an_upcaster() -> None:
    older = {(name, v) for name, cls in codec.PAYLOADS.items() for v in range(1, cls.VERSION)}
    assert set(upcasters.UPCASTERS) == older


PINNED = ("", "b1", 1, "PauseRequested", 1, "2026-01-01T00:00:00.000000Z", "{}", '{"before":null}')


@pytest.mark.parametrize("index", range(len(PINNED)))
def test_the_hash_covers_every_field(index: int) -> None:
    changed: list[Any] = list(PINNED)
    changed[index] = 2 if isinstance(changed[index], int) else changed[index] + "x"
    assert codec.event_hash(*changed) != codec.event_hash(*PINNED)


def test_the_hash_of_stored_events_never_changes() -> None:
    """Logs exist that were chained with it: sha256 of a JSON array, so that others can check them."""
    text = json.dumps(PINNED, separators=(",", ":"), ensure_ascii=False)
    assert codec.event_hash(*PINNED) == hashlib.sha256(text.encode()).hexdigest()


ADDED_TO_SUBMITTED = {
    **dict.fromkeys(("request_sha256", "time_origin", "reproduces"), ""),
    **dict.fromkeys(("variation", "locked", "rebuild")),
    "group": "",
    **{name: [] for name in ("profiles", "cell", "require", "requires")},
}
"""Fields that BuildSubmitted got since, with what they are in an event that lacks them."""


def test_events_as_first_released_are_still_read() -> None:
    text = (
        '{"fresh":false,"idempotency_key":null,"inputs":[{"mode":420,"path":"motd","sha256":"aa"}],'
        '"manifest":"<dc/>","manifest_path":"/m","name":"live","parameters":{"hostname":"box"},'
        '"pause_before":null,"plan":{"checkpoints":[{"args":[],"checkpoint_class":"C",'
        '"description":"","disk_bytes":0,"estimate_seconds":60.0,"ingredients":[{"digest":"1",'
        '"kind":"code","line":0,"name":"code"}],"key":"k","kwargs":{"n":[1,2.5,null]},'
        '"mod_path":"m","name":"a","network":false,"tools":["grub"]}]},"priority":0}'
    )
    payload = codec.decode("BuildSubmitted", 1, text)
    assert isinstance(payload, BuildSubmitted)
    assert payload.plan.checkpoints[0].kwargs == {"n": [1, 2.5, None]}
    assert payload.inputs[0].mode == 0o644
    again = json.loads(codec.encode(payload))
    # Added to planned checkpoints since.
    assert again["plan"]["checkpoints"][0].pop("secrets") == []
    assert again["plan"]["checkpoints"][0].pop("places") == []
    assert again["plan"]["checkpoints"][0].pop("host_code") is False
    assert again["plan"]["checkpoints"][0].pop("variances") == []
    assert again["plan"]["checkpoints"][0].pop("base") == ""
    assert again["plan"]["checkpoints"][0].pop("listed") == []
    assert again["plan"]["checkpoints"][0].pop("grow") is False
    assert again["plan"]["checkpoints"][0].pop("inputs") is None
    assert {name: again.pop(name) for name in ADDED_TO_SUBMITTED} == ADDED_TO_SUBMITTED
    assert again == json.loads(text)


@given(time=st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9998, 1, 1)))
def test_times_survive_and_sort_as_text(time: datetime) -> None:
    aware = time.replace(tzinfo=UTC)
    assert codec.decode_time(codec.encode_time(aware)) == aware
    later = datetime(9999, 1, 1, tzinfo=UTC)
    assert codec.encode_time(aware) < codec.encode_time(later)


@given(actor=st.builds(Actor))
def test_actors_survive(actor: Actor) -> None:
    assert codec.decode_actor(codec.encode_actor(actor)) == actor
