"""Keys: the names of checkpoint results, and the reasons why two keys differ.

A key is sha256 over the previous checkpoint's key and the checkpoint's own ingredients, sorted, so
that their order in the planner does not matter. Nothing else enters: description, estimate, needs and
log level do not change a result. The checkpoint's *name* is not an ingredient either: the manifest nodes
of that name (`software`, `configuration`) enter by themselves, so a renamed checkpoint keeps its layer.
An ingredient's name does enter (swapping the values of two arguments changes the key), therefore an
`input` is named by its path as written in the manifest: the same manifest in another directory has the
same keys. Pure.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import takewhile, zip_longest

import msgspec

from statemachine.plan import Ingredient, Json, Plan, PlannedCheckpoint

ROOT = ""
"""The key before the first checkpoint."""

EPOCH = "epoch"
EXTERNAL = "external"
SALT = "salt"
GROWN = "grown"

_PHRASES = {
    "class": "its class {verb}",
    "version": "its version {verb}",
    "code": "its own code {verb}",
    "argument": "argument {name} {verb}",
    "manifest": "{name} {verb}",
    "input": "file {name} {verb}",
    EPOCH: "the time of the build {verb}",
    EXTERNAL: "{name} {verb}",
    SALT: "earlier results are declined",
    GROWN: "the earlier result that it adds to {verb}",
}

_OF_HOST = " of the host"
"""Suffix of the names of external state that belongs to this host: a tool, its files, its defaults."""

_SHA256 = re.compile(r"[0-9a-f]{64}\b ?")

_NAMED_FOR_IT = ("software", "configuration")
"""Manifest nodes that have the checkpoint's name, so the ingredient's name omits it."""


def canonical(value: Json) -> bytes:
    """The canonical JSON of a value: UTF-8, sorted keys, no white space (similar to RFC 8785)."""
    return msgspec.json.encode(value, order="sorted")


def digest(value: Json) -> str:
    """sha256 (hex) of the canonical JSON of a value."""
    return sha256(canonical(value)).hexdigest()


def chain_key(previous_key: str, ingredients: Iterable[Ingredient]) -> str:
    """The key of a checkpoint that follows `previous_key` (`ROOT` for the first)."""
    return digest(["dcd-key-1", previous_key, _meaning(ingredients)])


def chain(checkpoints: Iterable[PlannedCheckpoint]) -> Plan:
    """A plan of these checkpoints with every key computed anew."""
    return _chain_from(tuple(checkpoints), 0)


def with_epoch(plan: Plan, epoch: int | None, line: int = 0) -> Plan:
    """The plan with the build's time, seconds since 1970, as an ingredient of its first checkpoint (None
    for no time), and all keys chained again. `line` is its line in the manifest."""
    if not plan.checkpoints:
        return plan
    added = [] if epoch is None else [Ingredient(EPOCH, "", str(epoch), line)]
    return _with_ingredients(plan, 0, EPOCH, added)


def epoch_of(plan: Plan) -> int | None:
    """The build's time in a plan, seconds since 1970; None in a plan of version 0.1.0, which had none."""
    found = (part for planned in plan.checkpoints[:1] for part in planned.ingredients)
    return next((int(part.digest) for part in found if part.kind == EPOCH), None)


def with_external(plan: Plan, index: int, external: Mapping[str, str]) -> Plan:
    """The plan with the `external` ingredients of checkpoint `index` replaced by these (name to identifying
    text), and every key from there on chained again. The same plan object when nothing differs."""
    checkpoint = plan.checkpoints[index]
    planned = {part.name: part for part in checkpoint.ingredients if part.kind == EXTERNAL}
    if {name: part.digest for name, part in planned.items()} == dict(external):
        return plan
    found = [
        Ingredient(EXTERNAL, name, value, planned[name].line if name in planned else 0)
        for name, value in sorted(external.items())
    ]
    return _with_ingredients(plan, index, EXTERNAL, found)


def with_salt(plan: Plan, index: int, salt: str) -> Plan:
    """The plan with unique keys from checkpoint `index` on. This declines reuse, for a fresh build and
    after a rewind, without touching layers that others depend on."""
    return _with_ingredients(plan, index, SALT, [Ingredient(SALT, "", digest(salt))])


def with_grown(plan: Plan, index: int, ground: str) -> Plan:
    """The plan in which checkpoint `index` adds to the layer with key `ground` ("": to none), with all keys
    from there on chained again. So no build that does not grow reuses what a grown one has made. The same
    plan object when nothing differs."""
    if grown_from(plan.checkpoints[index]) == ground:
        return plan
    parts = [Ingredient(GROWN, "", ground)] if ground else []
    return _with_ingredients(plan, index, GROWN, parts)


def grown_from(planned: PlannedCheckpoint) -> str:
    """The key of the layer to which a checkpoint adds; "" if it does not grow."""
    return next((part.digest for part in planned.ingredients if part.kind == GROWN), "")


def grown(plan: Plan) -> tuple[str, ...]:
    """The names of the checkpoints that add to the result of an earlier build."""
    return tuple(planned.name for planned in plan.checkpoints if grown_from(planned))


def without_grown(plan: Plan, first: int) -> Plan:
    """The plan in which no checkpoint from `first` on grows."""
    for index in range(first, len(plan.checkpoints)):
        plan = with_grown(plan, index, "")
    return plan


def is_declined(plan: Plan, index: int) -> bool:
    """Whether the reuse of earlier results is declined for checkpoint `index`: from it or an earlier one
    on."""
    before = plan.checkpoints[: index + 1]
    return any(part.kind == SALT for planned in before for part in planned.ingredients)


def own_digest(plan: Plan, index: int) -> str:
    """The digest of what decides the result of checkpoint `index`, apart from the layer below and what it was
    made from: its own ingredients, and the build's time."""
    own = _meaning(_without(plan.checkpoints[index].ingredients, SALT, GROWN, EPOCH))
    return digest(["dcd-own-1", own, epoch_of(plan)])


def base_key(plan: Plan, index: int, capture: str = "") -> str:
    """The key of the first of the two layers of checkpoint `index`, which all manifests with the same base
    share; "" for a checkpoint with one layer. It covers what the key of the result does, but of the
    `software` of its name only the part that `base` digests; and `capture`, what is kept of the packages that
    it is made from, since the result on it needs as much."""
    planned = plan.checkpoints[index]
    if not planned.base:
        return ROOT
    previous = plan.checkpoints[index - 1].key if index else ROOT
    kept = [part for part in planned.ingredients if (part.kind, part.name) != _LISTING]
    meant = _meaning(_without(kept, GROWN))
    return digest(["dcd-base-1", previous, planned.base, capture, meant])


_LISTING = ("manifest", "software")


def _with_ingredients(plan: Plan, index: int, kind: str, parts: Iterable[Ingredient]) -> Plan:
    """The plan with checkpoint `index`'s ingredients of one kind replaced, and every key from there on
    chained again."""
    checkpoint = plan.checkpoints[index]
    changed = replace(checkpoint, ingredients=(*_without(checkpoint.ingredients, kind), *parts))
    return _chain_from((*plan.checkpoints[:index], changed, *plan.checkpoints[index + 1 :]), index)


def continued(plan: Plan, old: Plan, completed: int) -> Plan:
    """The plan as a continuation of `old`, whose first `completed` checkpoints have their results.

    Declined results stay declined: salts are copied to the checkpoints of the same names. A change in a
    repository does not invalidate an existing result: a completed checkpoint that is otherwise unchanged
    keeps the external state from which it was built.
    """
    before = {planned.name: planned for planned in old.checkpoints}
    results = {planned.name for planned in old.checkpoints[:completed]}
    return chain(
        _continued(planned, before[planned.name], planned.name in results)
        if planned.name in before
        else planned
        for planned in plan.checkpoints
    )


def _continued(
    new: PlannedCheckpoint, old: PlannedCheckpoint, has_result: bool
) -> PlannedCheckpoint:
    own = _without(new.ingredients, SALT, EXTERNAL)
    same = _meaning(own) == _meaning(_without(old.ingredients, SALT, EXTERNAL, GROWN))
    external = old if has_result and same else new
    return replace(
        new,
        ingredients=(
            *own,
            *(part for part in external.ingredients if part.kind in (EXTERNAL, GROWN)),
            *(part for part in old.ingredients if part.kind == SALT),
        ),
    )


def _without(ingredients: Iterable[Ingredient], *kinds: str) -> tuple[Ingredient, ...]:
    return tuple(part for part in ingredients if part.kind not in kinds)


def _meaning(ingredients: Iterable[Ingredient]) -> list[tuple[str, str, str]]:
    return sorted((part.kind, part.name, part.digest) for part in ingredients)


def without_salt(plan: Plan) -> Plan:
    """The plan with no result declined, and none that grows."""
    return chain(
        replace(planned, ingredients=_without(planned.ingredients, SALT, GROWN))
        for planned in plan.checkpoints
    )


def kept_prefix(old: Plan, new: Plan) -> int:
    """The number of leading checkpoints with equal keys in both plans."""
    pairs = zip(old.checkpoints, new.checkpoints, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].key == pair[1].key, pairs))


def changes(old: PlannedCheckpoint | None, new: PlannedCheckpoint) -> list[str]:
    """The reasons why `new` differs from `old`, for people; empty when the keys are equal."""
    if old is None:
        return ["it is new"]
    if old.key == new.key:
        return []
    reasons = []
    gone = []
    for before, after in _pairs(old.ingredients, new.ingredients):
        if after is None:
            assert before is not None
            gone.append(_phrase(old.name, before, "is gone"))
        elif before is None or before.digest != after.digest:
            reasons.append(_phrase(new.name, after, _verb(before, after)))
    return [*reasons, *gone] or _order(old, new) or ["an earlier checkpoint changed"]


def _pairs(
    old: Iterable[Ingredient], new: Iterable[Ingredient]
) -> Iterator[tuple[Ingredient | None, Ingredient | None]]:
    """Pairs of corresponding ingredients of two checkpoints. Several ingredients with the same name are
    numbered by position; they are matched by content, so that an inserted one does not change all that
    follow it."""
    groups: dict[tuple[str, str], tuple[list[Ingredient], list[Ingredient]]] = {}
    for side, parts in enumerate((old, new)):
        for part in parts:
            groups.setdefault(_group(part), ([], []))[side].append(part)
    for before, after in groups.values():
        held = {part.digest for part in before} & {part.digest for part in after}
        yield from zip_longest(
            [part for part in before if part.digest not in held],
            [part for part in after if part.digest not in held],
        )


def _group(part: Ingredient) -> tuple[str, str]:
    name, _, number = part.name.rpartition(" ")
    numbered = part.kind == "manifest" and number.isdecimal()
    return part.kind, name if numbered else part.name


def _order(old: PlannedCheckpoint, new: PlannedCheckpoint) -> list[str]:
    """The reasons when nodes of the same name have the same contents in another order or number."""
    before, after = (
        {replace(part, line=0) for part in planned.ingredients if part.kind == "manifest"}
        for planned in (old, new)
    )
    changed = {_group(part)[1] for part in before ^ after}
    return [f"the order of {name} changed" for name in sorted(changed)]


def _chain_from(checkpoints: tuple[PlannedCheckpoint, ...], first: int) -> Plan:
    chained = list(checkpoints[:first])
    for checkpoint in checkpoints[first:]:
        previous = chained[-1].key if chained else ROOT
        chained.append(replace(checkpoint, key=chain_key(previous, checkpoint.ingredients)))
    return Plan(tuple(chained))


def _verb(before: Ingredient | None, after: Ingredient) -> str:
    """The change to an ingredient; for external state, with the versions if known."""
    if before is None:
        return "is new"
    old, new = _version(before), _version(after)
    return f"changed (it was {old}, it is {new})" if old and new and old != new else "changed"


def _version(part: Ingredient) -> str:
    """The version or date of external state or of the build's time, or ""."""
    if part.kind == EPOCH:
        return f"{datetime.fromtimestamp(int(part.digest), UTC):%Y-%m-%dT%H:%M:%SZ}"
    if part.kind != EXTERNAL:
        return ""
    version = _SHA256.sub("", part.digest)
    return version if version != part.digest or part.name.endswith(_OF_HOST) else ""


def _external(name: str) -> str:
    if name.startswith("%{"):
        return f"the output of {name}"
    own = name.endswith(_OF_HOST) or name.startswith("interpreter ")
    return name if own else f"repository {name}"


def _phrase(checkpoint: str, part: Ingredient, verb: str) -> str:
    name = part.name
    if part.kind == EXTERNAL:
        name = _external(name)
    elif part.kind == "manifest" and name.split(" ")[0] in _NAMED_FOR_IT:
        node, *number = name.split(" ")
        name = " ".join([f"{node}/{checkpoint}", *number])
    text = _PHRASES.get(part.kind, "{kind} {name} {verb}").format(
        kind=part.kind, name=name, verb=verb
    )
    # A change on the host has no line in the manifest.
    placed = part.line and verb != "is gone" and not name.endswith(_OF_HOST)
    return f"{text} at line {part.line}" if placed else text
