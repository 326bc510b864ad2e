"""The plan: the ordered checkpoints of one build, with everything that determines their results.

Pure data, computed in memory before anything runs, stored in BuildSubmitted (and BuildResumed when the
manifest changed). A checkpoint's key names its result. It is chained over the previous key and the
ingredients: named digests of the code, version, arguments, manifest nodes and inputs. Because
ingredients keep their names, dcd can compare two plans and explain the difference.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = Any
"""A JSON value: None, bool, int, float, str, list or dict of the same."""


class Stage(StrEnum):
    """What a worker makes of a checkpoint's result: all of it; its base, which is a layer of its own; or the
    rest, on a layer with the base and perhaps a part of what is listed."""

    WHOLE = "whole"
    BASE = "base"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One input that determines a checkpoint's result.

    `kind` is one of `class`, `version`, `code`, `argument`, `manifest`, `input`, `external`, `epoch` (the
    build's time, of the first checkpoint), `salt` (not from the manifest: it declines earlier results),
    `grown` (not from the manifest either: the key of the earlier result that it adds to);
    `name` identifies it (an argument's name, a node's path, a file's path, a repository, a part of the
    host). `digest` is the sha256 (hex) of its canonical form; for `epoch`, the seconds since 1970; for
    `external`, a text that identifies the state: usually a sha256, followed by the version or date for
    people. `line` is its line in the manifest (0 when it has none).
    """

    kind: str
    name: str
    digest: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Variance:
    """A reason why a checkpoint may have another result each time, for people. `certain`: it has; otherwise
    it depends on what dcd does not know, and `dcctl reproduce` finds out."""

    reason: str
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Inputs:
    """What of the layers below decides the result of a checkpoint, as patterns of paths in the workspace: `*`
    stands for anything in one name, `**` for names and directories, and `a/**` also matches `a`.

    A difference between two layers matters if it is below `whole`, whatever else matches. It does not matter
    below `unread`, and programs there are no readers. Of other entries, one that changed matters, and one
    that is new or gone matters if a reader could look for it by its name: if one of the `texts` contains the
    name as a word, or a pattern of it, or if one of the `programs` that these texts name, or of the
    `libraries` that these programs name, contains the name. Inside a directory that is new or gone, names
    count only below `searched`, where texts have find(1) look for them. Other directories that are enumerated
    belong into `whole`. What is new or gone below a directory whose path a text has matters too, since it
    may be copied as a whole; not below `passed`, which are so large that texts only name them on the way.
    `leaves` are programs and libraries that look for nothing by a name that is in them. What the checkpoint
    itself changes always matters.
    """

    whole: tuple[str, ...]
    unread: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    searched: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedCheckpoint:
    """One checkpoint of a plan: how to construct it and the key of its result. `secrets` names the files
    and variables from which it reads secrets, `places` where its elements are in the manifest, in the form of
    `dcd.manifest.places` (empty in plans of version 0.1.0). `host_code`: it runs code of the manifest, or of
    a module outside the project, on the host (unset in plans of version 0.1.0). `variances` are empty for a
    checkpoint whose result is reproducible, and in plans of version 0.1.0.

    `base` is the digest of the manifest's part that decides the first of its two layers, "" if it has one
    only; `listed` is what the second layer adds to that (`statemachine.keys.base_key`). With `grow` it may
    add to the result of an earlier build instead, which has a part of what is listed. `inputs` is what it
    reads of the layers below, if that is known."""

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
    places: tuple[str, ...] = ()
    host_code: bool = False
    variances: tuple[Variance, ...] = ()
    base: str = ""
    listed: tuple[str, ...] = ()
    grow: bool = False
    inputs: Inputs | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The checkpoints of one build, in order. Names are unique."""

    checkpoints: tuple[PlannedCheckpoint, ...]


@dataclass(frozen=True, slots=True)
class Locked:
    """What a build uses in place of its repositories: the lists of packages of earlier builds, by their
    digests (`store.resolved`), and the version of each package for which these have several.

    `exactly`: each transfer has to resolve to the packages of one of the lists. With `fetch` the packages
    come from the repositories all the same, which still have the state of the lists."""

    lists: tuple[str, ...]
    versions: dict[str, str] = field(default_factory=dict)
    exactly: bool = False
    fetch: bool = False
