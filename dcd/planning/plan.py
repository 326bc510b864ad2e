"""From a loaded manifest to a plan: the checkpoints, their constructors and their keys.

Planning changes nothing. When all checkpoints can run here (`dcd.planning.readiness`), it queries the
external state that keys cover (repositories, the tools of this host), collects the other ingredients, and
chains the keys. Blocking, since it may use the network; planners call it (`dcd.planner`). `check_host`
compares a plan's needs of space with this host, before the first checkpoint runs.
"""

import os
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from dcd.checkpoints.interface import Checkpoint, Known, Needs
from dcd.checkpoints.publish.parts import is_publishing
from dcd.construction.constructors import construct, resolve
from dcd.manifest.canonical import restore
from dcd.manifest.diagnostics import listed
from dcd.manifest.doc import distro
from dcd.manifest.places import places_of
from dcd.planning.epoch import BuildTime, choose_epoch
from dcd.planning.ingredients import ingredients
from dcd.planning.load import Loaded
from dcd.planning.readiness import Made, Prospect, prospects, require_all
from dcd.platform.host_parts import host_parts
from dcd.worker.kinds import Kind
from statemachine.build import BuildState
from statemachine.errors import NotFound, PermissionDenied, Unprepared, UsageError
from statemachine.keys import EXTERNAL, SALT, chain, digest, with_epoch, with_salt
from statemachine.plan import Ingredient, Plan, PlannedCheckpoint
from store.host import space, tools

PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")


def make_plan(
    loaded: Loaded,
    made: Sequence[Made],
    allowed: Collection[str],
    epoch: int | None = None,
    pause_before: str | None = None,
    *,
    known: Known | None = None,
    worker: Kind = Kind.NAMESPACES,
    host_code: bool = True,
    elsewhere: bool = False,
    waiting: Callable[[], None] = lambda: None,
) -> tuple[Plan, BuildTime]:
    """The plan of a manifest, and the time of its build. `made` are its checkpoints as `examine` constructed
    them, `allowed` further modules that it may name, `epoch` is the requested time of the build (seconds
    since 1970), which the manifest may override. `known` are the repositories of a locked build, `worker` is
    the kind of this host's workers. `host_code`: it may run code on the host; `elsewhere`: another host may
    make the image, so what this one lacks is no obstacle; `waiting` is called before queries to repositories.
    Raises PermissionDenied before opening anything that the manifest names;
    Unprepared when checkpoints before `pause_before` cannot run here or a repository does not answer; Unseen
    (`dcd.platform.sight`)."""
    found = _permitted(loaded, made, allowed, host_code, worker, elsewhere)
    require_all(found, pause_before, worker)
    waiting()
    if known is not None:
        found = [_knowing(prospect, known) for prospect in found]
    states = _states(loaded, found)
    for state in states:
        if isinstance(state, Unprepared):
            raise state
    return _plan(loaded, found, states, allowed, epoch)


def without_publishing(checkpoints: Iterable[PlannedCheckpoint]) -> list[PlannedCheckpoint]:
    """The checkpoints of a plan that publish nothing: for a repetition, whose results are compared only."""
    return [each for each in checkpoints if not is_publishing(each.mod_path)]


def growing(plan: Plan) -> Plan:
    """The plan whose checkpoints may add to results of earlier builds. Keys stay. Raises UsageError when none
    can."""
    if not any(planned.base for planned in plan.checkpoints):
        raise UsageError(
            "nothing in this manifest can grow",
            "only a transfer of Debian packages that makes a system, with a variant other than custom, adds "
            "its packages to an earlier result",
            "leave out --grow",
        )
    return Plan(tuple(replace(each, grow=bool(each.base)) for each in plan.checkpoints))


def _knowing(prospect: Prospect, known: Known) -> Prospect:
    return replace(prospect, instance=prospect.instance and prospect.instance.knowing(known))


def new_salt() -> str:
    """64 random bits, which make a key new."""
    return secrets.token_hex(8)


def declining_reuse(plan: Plan, checkpoint: str | None, salt: str) -> Plan:
    """The plan with new keys, by the salt, from `checkpoint` on (None: from the first). Raises NotFound."""
    names = [planned.name for planned in plan.checkpoints]
    if checkpoint is not None and checkpoint not in names:
        raise NotFound(
            f"the plan has no checkpoint {checkpoint}", f"its checkpoints are: {', '.join(names)}"
        )
    return with_salt(plan, names.index(checkpoint) if checkpoint else 0, salt)


def plan_ahead(
    loaded: Loaded,
    made: Sequence[Made],
    allowed: Collection[str],
    epoch: int | None = None,
    *,
    known: Known | None = None,
    worker: Kind = Kind.NAMESPACES,
    host_code: bool = True,
    elsewhere: bool = False,
    waiting: Callable[[], None] = lambda: None,
) -> tuple[Plan, BuildTime, list[Prospect]]:
    """The plan of the manifest's checkpoints up to the first that cannot run here or whose repository does
    not answer, the build's time, and the prospects of the rest, whose keys are unknown. Queries each
    repository once, without waiting. Raises PermissionDenied as `make_plan`."""
    found = _permitted(loaded, made, allowed, host_code, worker, elsewhere)
    waiting()
    if known is not None:
        found = [_knowing(prospect, known) for prospect in found]
    able = list(takewhile(lambda prospect: not prospect.obstacle, found))
    able = [
        replace(prospect, instance=prospect.instance and prospect.instance.impatient())
        for prospect in able
    ]
    states = _states(loaded, able)
    asked = [
        replace(prospect, unasked=f"its repository cannot be queried: {state.brief}")
        if isinstance(state, Unprepared)
        else prospect
        for prospect, state in zip(able, states, strict=True)
    ]
    answered = list(takewhile(lambda state: not isinstance(state, Unprepared), states))
    if len(answered) < len(able) and epoch is None and distro(loaded.doc).source_date_epoch is None:
        # Every key covers the build's time, which may be that of the repository without an answer.
        unasked = "the build's time may be that of a repository that cannot be queried"
        asked[: len(answered)] = [replace(each, unasked=unasked) for each in asked[: len(answered)]]
        answered = []
    plan, time = _plan(loaded, asked[: len(answered)], answered, allowed, epoch)
    return plan, time, [*asked[len(answered) :], *found[len(able) :]]


def _states(loaded: Loaded, able: Sequence[Prospect]) -> list[dict[str, str] | Unprepared]:
    """The external state of each checkpoint, or the reason for its lack."""

    def ask(prospect: Prospect) -> dict[str, str] | Unprepared:
        if prospect.obstacle or prospect.instance is None:
            return {}  # It is behind a pause; the state is queried again before it runs.
        try:
            return {
                **prospect.instance.external_state(loaded.doc),
                **host_parts(prospect.needs.tools),
            }
        except Unprepared as error:
            return error

    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(ask, able))


def _plan(
    loaded: Loaded,
    able: Sequence[Prospect],
    states: Sequence[dict[str, str] | Unprepared],
    allowed: Collection[str],
    epoch: int | None,
) -> tuple[Plan, BuildTime]:
    external = [state for state in states if not isinstance(state, Unprepared)]
    plan = chain(
        _planned(loaded, prospect, state, allowed)
        for prospect, state in zip(able, external, strict=True)
    )
    described = distro(loaded.doc)
    line = described.origin.line if described.origin and described.source_date_epoch else 0
    time = choose_epoch(loaded.doc, epoch, external)
    return with_epoch(plan, time.seconds, line), time


def _permitted(
    loaded: Loaded,
    made: Sequence[Made],
    allowed: Collection[str],
    host_code: bool,
    worker: Kind,
    elsewhere: bool,
) -> list[Prospect]:
    """The prospects of the checkpoints. `elsewhere`: another host may make the image, so what this one lacks
    is no obstacle. Raises PermissionDenied when one runs code on the host and its
    sender may not: its `external_state` would open files of the host."""
    found = prospects(loaded.doc, made, allowed, worker)
    if elsewhere:
        found = [replace(each, obstacle="", lacks=()) if each.instance else each for each in found]
    running = [prospect.spec.name for prospect in found if prospect.runs_host_code]
    if running and not host_code:
        raise PermissionDenied(
            f"{listed(running, 'and')} would run code on the host",
            "a custom script outside the image, or a checkpoint of a foreign module; this needs host_code",
            "run the script inside the image (chroot), or have an administrator add you to `host_code` in "
            "the daemon's configuration",
        )
    return found


def external_state(
    manifest: str, planned: PlannedCheckpoint, allowed: Collection[str]
) -> dict[str, str]:
    """The present external state that the key of a checkpoint of a stored manifest covers. Raises Unprepared
    when a repository does not answer, or this host has lost a tool since the plan was made."""
    found = constructed(planned, allowed).external_state(restore(manifest))
    return {**found, **_tools_of(planned)}


def with_present_host(planned: PlannedCheckpoint) -> dict[str, str]:
    """The external state in a checkpoint's key, with the present tools of this host. Raises Unprepared as
    `external_state`."""
    return {**recorded_external(planned), **_tools_of(planned)}


def changed_host(planned: PlannedCheckpoint) -> list[str]:
    """The parts of this host that have changed since the checkpoint's key was made."""
    recorded = recorded_external(planned)
    present = host_parts(planned.tools)
    return [name for name, state in recorded.items() if name in present and present[name] != state]


def _tools_of(planned: PlannedCheckpoint) -> dict[str, str]:
    if lacking := tools.missing(planned.tools):
        raise Unprepared(
            f"{planned.name} cannot run here",
            f"this host lacks {', '.join(lacking)}",
            tools.remedy(lacking),
        )
    return host_parts(planned.tools)


def recorded_external(planned: PlannedCheckpoint) -> dict[str, str]:
    """The external state in a checkpoint's key."""
    return {part.name: part.digest for part in planned.ingredients if part.kind == EXTERNAL}


def check_host(plan: Plan, state_dir: Path, min_free_bytes: int) -> None:
    """Raise Unprepared when this host lacks the space that the plan needs."""
    if lacking := space.shortage(state_dir, space.needed(plan.checkpoints, min_free_bytes)):
        raise Unprepared(
            "there is not enough disk space for the build",
            lacking,
            "free some space there, or set state_dir to a larger file system",
        )


def environment(state: BuildState, needs: Needs, http_proxy: str | None) -> dict[str, str]:
    """The environment of the tools of a build's checkpoint with these needs: the build's time
    (SOURCE_DATE_EPOCH) and, for a checkpoint that uses the network, the proxies. The manifest's `http_proxy`
    overrides the daemon's. A checkpoint may run code of the manifest, so only one that uses a proxy's login
    solely for downloads gets it."""
    variables = {"SOURCE_DATE_EPOCH": str(state.source_date_epoch)}
    if not needs.network:
        return variables
    proxies = {
        name: value
        for variable in PROXY_VARIABLES
        for name in (variable, variable.upper())
        if (value := os.environ.get(name))
    }
    if http_proxy:
        variables_of_it = ("http_proxy", "https_proxy")
        proxies |= {name: http_proxy for each in variables_of_it for name in (each, each.upper())}
    if not needs.proxy_logins:
        proxies = {name: _without_login(value) for name, value in proxies.items()}
    return variables | proxies


def _without_login(proxy: str) -> str:
    """The address of a proxy without user and password; the scheme may be missing."""
    login, at, host = proxy.rpartition("@")
    scheme = re.match(r"[A-Za-z0-9+.-]+://", login)
    return (scheme.group() if scheme else "") + host if at else proxy


def constructed(planned: PlannedCheckpoint, allowed: Collection[str]) -> Checkpoint:
    """The planned checkpoint. Raises ManifestError when its code does not accept the arguments any more."""
    names = (planned.mod_path, planned.checkpoint_class, planned.name)
    return construct(*names, planned.args, planned.kwargs, allowed)


def _planned(
    loaded: Loaded, prospect: Prospect, external: dict[str, str], allowed: Collection[str]
) -> PlannedCheckpoint:
    spec, instance, needs = prospect.spec, prospect.instance, prospect.needs
    line = spec.origin.line if spec.origin else 0
    if instance is None:
        name = digest(f"{spec.mod_path}:{spec.checkpoint_class}")
        found: tuple[Ingredient, ...] = (Ingredient("class", "", name, line),)
    else:
        factory = resolve(spec.mod_path, spec.checkpoint_class, allowed)
        found = ingredients(loaded.doc, spec, factory, instance, loaded.inputs)
    base = None if instance is None else instance.base(loaded.doc)
    return PlannedCheckpoint(
        name=spec.name,
        description=prospect.description,
        mod_path=spec.mod_path,
        checkpoint_class=spec.checkpoint_class,
        key="",
        ingredients=(
            *found,
            *(Ingredient(EXTERNAL, name, value, line) for name, value in sorted(external.items())),
            *(() if instance is None or instance.REUSABLE else (Ingredient(SALT, "", new_salt()),)),
        ),
        args=spec.args,
        kwargs=dict(spec.kwargs),
        places=places_of(loaded.doc, spec.name),
        estimate_seconds=prospect.estimate_seconds,
        network=needs.network,
        tools=needs.tools,
        disk_bytes=needs.disk_bytes,
        secrets=needs.secrets,
        host_code=prospect.runs_host_code,
        variances=prospect.variances,
        base="" if base is None else digest(base.decides),
        listed=() if base is None else base.listed,
        grow=base is not None and distro(loaded.doc).grow,
        inputs=None if instance is None else instance.INPUTS,
    )
