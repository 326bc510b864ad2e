"""The plan: the ordered checkpoints of one build, with everything that decides their results.

Pure data, made in memory before anything runs, stored in BuildSubmitted (and BuildResumed when the
manifest changed). A checkpoint's key names its result. It is chained over the key before it and the
ingredients: named digests of the code, version, arguments, manifest nodes and inputs. Because
ingredients keep their names, two plans can be compared and the difference told to a person.
"""

from dataclasses import dataclass, field
from typing import Any

Json = Any
"""A JSON value: None, bool, int, float, str, list or dict of the same."""


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One thing that decides a checkpoint's result.

    `kind` is one of `class`, `version`, `code`, `argument`, `manifest`, `input`, `external`, `epoch` (the
    build's time, of the first checkpoint), `salt` (nothing that the manifest says: it declines results made
    before); `name` says which (an argument's name, a node's path, a file's path, a repository, a part of
    the host). `digest` is the sha256 (hex) of its canonical form; of the time, its seconds since 1970; of
    what is external, a text that identifies its state: as a rule a sha256, with the version or date for
    people behind it. `line` is where the manifest says it (0 when nowhere).
    """

    kind: str
    name: str
    digest: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class PlannedCheckpoint:
    """One checkpoint of a plan: how to construct it and the key of its result. `secrets` are the names of
    the files and variables that it reads them from."""

    name: str
    description: str
    mod_path: str
    checkpoint_class: str
    key: str
    ingredients: tuple[Ingredient, ...]
    args: tuple[Json, ...] = ()
    kwargs: dict[str, Json] = field(default_factory=dict)
    estimate_seconds: float = 60.0
    network: bool = False
    tools: tuple[str, ...] = ()
    disk_bytes: int = 0
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The checkpoints of one build, in order. Names are unique."""

    checkpoints: tuple[PlannedCheckpoint, ...]
