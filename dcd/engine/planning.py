"""From a loaded manifest to a plan: which checkpoints, constructed how, with which keys.

Planning touches nothing. It constructs every checkpoint to ask what it needs and what decides its
result, asks the world for the state that a key covers (repositories), and chains the keys. Blocking,
since that may use the network; the engine calls it in a thread. `check_host` compares a plan's needs
with this host, before the first checkpoint runs.
"""

import os
import shutil
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dcd.checkpoints.interface import Checkpoint
from dcd.manifest.constructors import construct, resolve
from dcd.manifest.doc import DataObjectCache, checkpoints_of, distro
from dcd.manifest.ingredients import ingredients
from dcd.manifest.objects import CheckpointSpec
from dcd.manifest.parse import Loaded, restore
from dcd.platform import tools
from statemachine.build import BuildState
from statemachine.errors import Unprepared
from statemachine.keys import EXTERNAL, chain, with_salt
from statemachine.plan import Ingredient, Plan, PlannedCheckpoint

PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")


def make_plan(loaded: Loaded, allowed: Collection[str], salt: str | None = None) -> Plan:
    """The plan of a manifest. `allowed` are modules that it may name beside the project's.

    `salt` makes every key unlike any other, which is how all reuse is declined. Raises ManifestError,
    and Unprepared when the state of a repository cannot be had.
    """
    doc = loaded.doc
    specs = checkpoints_of(doc)
    instances = [_construct(spec, allowed) for spec in specs]
    for instance in instances:
        instance.check(doc)
    with ThreadPoolExecutor(max_workers=4) as pool:
        states = list(pool.map(lambda instance: dict(instance.external_state(doc)), instances))
    planned = [
        _planned(loaded, spec, instance, external, allowed)
        for spec, instance, external in zip(specs, instances, states, strict=True)
    ]
    plan = chain(planned)
    return plan if salt is None else with_salt(plan, 0, salt)


def external_state(state: BuildState, index: int, allowed: Collection[str]) -> dict[str, str]:
    """The state of the world that the key of a build's checkpoint `index` covers, as it is now."""
    planned = state.plan.checkpoints[index]
    instance = construct(
        planned.mod_path,
        planned.checkpoint_class,
        planned.name,
        planned.args,
        planned.kwargs,
        allowed,
    )
    return dict(instance.external_state(restore(state.manifest)))


def recorded_external(planned: PlannedCheckpoint) -> dict[str, str]:
    """The external state that a checkpoint's key was made from."""
    return {part.name: part.digest for part in planned.ingredients if part.kind == EXTERNAL}


def check_host(plan: Plan, state_dir: Path, min_free_bytes: int) -> None:
    """Raise Unprepared when this host lacks a tool or the space that the plan needs."""
    if absent := tools.missing(name for planned in plan.checkpoints for name in planned.tools):
        users = {
            name: [planned.name for planned in plan.checkpoints if name in planned.tools]
            for name in absent
        }
        raise Unprepared(
            f"this host lacks {len(absent)} tool{'s' * (len(absent) > 1)} that the build needs",
            "\n".join(f"{name}: needed by {', '.join(names)}" for name, names in users.items()),
            tools.install_command(absent) or f"install {', '.join(absent)}",
        )
    needed = max((planned.disk_bytes for planned in plan.checkpoints), default=0) + min_free_bytes
    free = shutil.disk_usage(state_dir).free
    if free < needed:
        raise Unprepared(
            "there is not enough disk space for the build",
            f"{state_dir} has {free / 2**30:.1f} GiB free; the build needs {needed / 2**30:.1f} GiB",
            "free some space there, or set state_dir to a larger file system",
        )


def environment(state: BuildState, doc: DataObjectCache | None = None) -> dict[str, str]:
    """The environment of a build's tools: its time (SOURCE_DATE_EPOCH) and the proxies in force."""
    found = {
        name: value
        for variable in PROXY_VARIABLES
        for name in (variable, variable.upper())
        if (value := os.environ.get(name))
    }
    proxy = distro(doc or restore(state.manifest)).http_proxy
    if proxy:
        found |= {"http_proxy": proxy, "https_proxy": proxy}
    return {**found, "SOURCE_DATE_EPOCH": str(int(state.submitted_at.timestamp()))}


def _construct(spec: CheckpointSpec, allowed: Collection[str]) -> Checkpoint:
    return construct(
        spec.mod_path, spec.checkpoint_class, spec.name, _texts(spec), spec.kwargs, allowed
    )


def _texts(spec: CheckpointSpec) -> tuple[str, ...]:
    return () if spec.args is None else (spec.args,)


def _planned(
    loaded: Loaded,
    spec: CheckpointSpec,
    instance: Checkpoint,
    external: dict[str, str],
    allowed: Collection[str],
) -> PlannedCheckpoint:
    factory = resolve(spec.mod_path, spec.checkpoint_class, allowed)
    needs = instance.needs(loaded.doc)
    line = spec.origin.line if spec.origin else 0
    return PlannedCheckpoint(
        name=spec.name,
        description=spec.desc or type(instance).DESCRIPTION,
        mod_path=spec.mod_path,
        checkpoint_class=spec.checkpoint_class,
        key="",
        ingredients=(
            *ingredients(loaded.doc, spec, factory, instance, loaded.inputs),
            *(Ingredient(EXTERNAL, name, value, line) for name, value in sorted(external.items())),
        ),
        args=_texts(spec),
        kwargs=dict(spec.kwargs),
        estimate_seconds=instance.get_progress_estimate(),
        network=needs.network,
        tools=needs.tools,
        disk_bytes=needs.disk_bytes,
    )
