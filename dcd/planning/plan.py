"""From a loaded manifest to a plan: which checkpoints, constructed how, with which keys.

Planning touches nothing. When all checkpoints can run here (`dcd.planning.readiness`), it asks the world for
the state that a key covers (repositories, the tools of this host), takes what else decides each result, and
chains the keys. Blocking, since that may use the network; planners call it (`dcd.planner`). `check_host`
compares a plan's needs of space with this host, before the first checkpoint runs.
"""

import os
import re
import secrets
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from dcd.checkpoints.interface import Checkpoint, Needs
from dcd.configuration import Configuration
from dcd.construction.constructors import construct, resolve
from dcd.manifest.canonical import restore
from dcd.manifest.diagnostics import listed
from dcd.manifest.doc import distro
from dcd.manifest.places import places_of
from dcd.manifest.secrets import DIRECTORIES, PREFIX, Borrower, require_use
from dcd.planning.epoch import choose_epoch
from dcd.planning.ingredients import ingredients
from dcd.planning.load import Loaded
from dcd.planning.readiness import Made, Prospect, prospects, require_all, texts_of
from dcd.platform.host_parts import host_parts
from dcd.worker.request import Grants
from statemachine.build import BuildState
from statemachine.errors import NotFound, PermissionDenied, Unprepared
from statemachine.keys import EXTERNAL, chain, digest, epoch_of, with_epoch, with_salt
from statemachine.plan import Ingredient, Plan, PlannedCheckpoint
from store.host import space, tools

PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")


def _nothing() -> None:
    """For callers that need not know when others are asked."""


def make_plan(
    loaded: Loaded,
    made: Sequence[Made],
    allowed: Collection[str],
    epoch: int | None = None,
    pause_before: str | None = None,
    *,
    host_code: bool = True,
    borrower: Borrower | None = None,
    waiting: Callable[[], None] = _nothing,
) -> Plan:
    """The plan of a manifest. `made` are its checkpoints as `examine` constructed them, `allowed` modules
    that it may name beside the project's, `epoch` is the build's time that is asked for (seconds since 1970);
    the manifest's own outranks it. `host_code` says that it may run code on the host, `borrower` is who uses
    its secrets (None: root), `waiting` is called before others are asked. Raises PermissionDenied before
    anything that the manifest names is opened; Unprepared when checkpoints before `pause_before` cannot run
    here or the state of a repository cannot be had."""
    found = prospects(loaded.doc, made, allowed)
    _permit(found, host_code)
    require_use(borrower, (name for each in found for name in each.needs.secrets))
    require_all(found, pause_before)
    waiting()
    return _plan(loaded, found, _known(_states(loaded, found)), allowed, epoch)


def new_salt() -> str:
    """What no key holds yet; 64 random bits."""
    return secrets.token_hex(8)


def declining_reuse(plan: Plan, checkpoint: str | None) -> Plan:
    """The plan with keys from `checkpoint` on (None: from the first) that no layer has. Raises NotFound."""
    names = [planned.name for planned in plan.checkpoints]
    if checkpoint is not None and checkpoint not in names:
        raise NotFound(
            f"the plan has no checkpoint {checkpoint}", f"its checkpoints are: {', '.join(names)}"
        )
    return with_salt(plan, names.index(checkpoint) if checkpoint else 0, new_salt())


def plan_ahead(
    loaded: Loaded,
    made: Sequence[Made],
    allowed: Collection[str],
    epoch: int | None = None,
    *,
    host_code: bool = True,
    borrower: Borrower | None = None,
    waiting: Callable[[], None] = _nothing,
) -> tuple[Plan, list[Prospect]]:
    """The plan of the manifest's checkpoints up to the first that cannot run here or whose repository cannot
    be asked, and the prospects of the rest: their keys cannot be known. A repository is asked once and not
    waited for. Raises as `make_plan`, but for these two."""
    found = prospects(loaded.doc, made, allowed)
    _permit(found, host_code)
    require_use(borrower, (name for each in found for name in each.needs.secrets))
    waiting()
    able = list(takewhile(lambda prospect: not prospect.obstacle, found))
    able = [
        replace(prospect, instance=prospect.instance and prospect.instance.impatient())
        for prospect in able
    ]
    states = _states(loaded, able)
    asked = [
        replace(prospect, unasked=f"its repository cannot be asked: {state.brief}")
        if isinstance(state, Unprepared)
        else prospect
        for prospect, state in zip(able, states, strict=True)
    ]
    known = list(takewhile(lambda state: not isinstance(state, Unprepared), states))
    if len(known) < len(able) and epoch is None and distro(loaded.doc).source_date_epoch is None:
        # Every key has the build's time in it, and that may be the time of what did not answer.
        unasked = "the build's time may be that of a repository that cannot be asked"
        asked[: len(known)] = [replace(each, unasked=unasked) for each in asked[: len(known)]]
        known = []
    plan = _plan(loaded, asked[: len(known)], _known(known), allowed, epoch)
    return plan, [*asked[len(known) :], *found[len(able) :]]


def _states(loaded: Loaded, able: Sequence[Prospect]) -> list[dict[str, str] | Unprepared]:
    """The external state of each checkpoint, or why it cannot be had."""

    def ask(prospect: Prospect) -> dict[str, str] | Unprepared:
        if prospect.obstacle or prospect.instance is None:
            return {}  # It is behind a pause; when it is to run, this is asked again.
        try:
            return {
                **prospect.instance.external_state(loaded.doc),
                **host_parts(prospect.needs.tools),
            }
        except Unprepared as error:
            return error

    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(ask, able))


def _known(states: Sequence[dict[str, str] | Unprepared]) -> list[dict[str, str]]:
    found = []
    for state in states:
        if isinstance(state, Unprepared):
            raise state
        found.append(state)
    return found


def _plan(
    loaded: Loaded,
    able: Sequence[Prospect],
    states: Sequence[dict[str, str]],
    allowed: Collection[str],
    epoch: int | None,
) -> Plan:
    plan = chain(
        _planned(loaded, prospect, external, allowed)
        for prospect, external in zip(able, states, strict=True)
    )
    described = distro(loaded.doc)
    line = described.origin.line if described.origin and described.source_date_epoch else 0
    return with_epoch(plan, choose_epoch(loaded.doc, epoch, states), line)


def _permit(found: Sequence[Prospect], host_code: bool) -> None:
    """Raise PermissionDenied when a checkpoint runs code on the host and its sender may not. What such a
    checkpoint names on the host is opened by its `external_state` only."""
    if host_code:
        return
    running = [prospect.spec.name for prospect in found if prospect.runs_host_code]
    if running:
        raise PermissionDenied(
            f"{listed(running, 'and')} would run code on the host",
            "a custom script outside the image, or a checkpoint of somebody else's module; this needs "
            "host_code",
            "run the script inside the image (chroot), or have an administrator add you to `host_code` in "
            "the daemon's configuration",
        )


def external_state(
    manifest: str, planned: PlannedCheckpoint, allowed: Collection[str]
) -> dict[str, str]:
    """The state of the world that the key of a checkpoint of a stored manifest covers, as it is now. Raises
    Unprepared when the world cannot be asked, or this host has lost a tool since the plan was made."""
    found = constructed(planned, allowed).external_state(restore(manifest))
    return {**found, **_tools_of(planned)}


def with_present_host(planned: PlannedCheckpoint) -> dict[str, str]:
    """The external state in a checkpoint's key, with the tools of this host as they are now. Raises
    Unprepared as `external_state`."""
    return {**recorded_external(planned), **_tools_of(planned)}


def changed_host(planned: PlannedCheckpoint) -> list[str]:
    """The parts of this host that are not as the checkpoint's key says."""
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


def grants(needs: Needs, settings: Configuration, *, host_code: bool = False) -> Grants:
    """What an attempt at a checkpoint with these needs may use of the host. `host_code`: it runs code for
    which the right of that name was needed."""
    kept = [directory.resolve() for directory in DIRECTORIES]
    files = [Path(name) for name in needs.secrets if name.startswith("/")]
    return Grants(
        capabilities=needs.capabilities,
        devices=needs.devices,
        reads=(*(each.path for each in needs.reads), *settings.worker_paths),
        writes=needs.writes,
        secrets=tuple(
            file for file in files if any(file.resolve().is_relative_to(place) for place in kept)
        ),
        variables={
            name: os.environ[name]
            for name in needs.secrets
            if name.startswith(PREFIX) and name in os.environ
        },
        hidden=(settings.state_dir, settings.socket),
        host_code=host_code,
        open_files=settings.worker_open_files,
        memory_bytes=settings.worker_memory_bytes,
        processes=settings.worker_processes,
        total_memory_bytes=settings.attempt_memory_bytes,
    )


def recorded_external(planned: PlannedCheckpoint) -> dict[str, str]:
    """The external state that a checkpoint's key was made from."""
    return {part.name: part.digest for part in planned.ingredients if part.kind == EXTERNAL}


def check_host(plan: Plan, state_dir: Path, min_free_bytes: int) -> None:
    """Raise Unprepared when this host lacks the space that the plan needs."""
    if lacking := space.shortage(state_dir, space.needed(plan.checkpoints, min_free_bytes)):
        raise Unprepared(
            "there is not enough disk space for the build",
            lacking,
            "free some space there, or set state_dir to a larger file system",
        )


def build_epoch(state: BuildState) -> int:
    """A build's time, seconds since 1970. Builds of version 0.1.0 have that of their submit."""
    found = epoch_of(state.plan)
    return int(state.submitted_at.timestamp()) if found is None else found


def environment(state: BuildState, needs: Needs, http_proxy: str | None) -> dict[str, str]:
    """The environment of the tools of a build's checkpoint with these needs: the build's time
    (SOURCE_DATE_EPOCH) and, when the checkpoint uses the network, the proxies in force, of which the
    manifest's, `http_proxy`, outranks the daemon's. What the checkpoint runs may be the manifest's own, so a
    proxy's login goes only to one that gives it to nothing but what downloads."""
    variables = {"SOURCE_DATE_EPOCH": str(build_epoch(state))}
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
    """The checkpoint that was planned. Raises ManifestError when its code does not take it any more."""
    return construct(
        planned.mod_path,
        planned.checkpoint_class,
        planned.name,
        planned.args,
        planned.kwargs,
        allowed,
    )


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
    return PlannedCheckpoint(
        name=spec.name,
        description=prospect.description,
        mod_path=spec.mod_path,
        checkpoint_class=spec.checkpoint_class,
        key="",
        ingredients=(
            *found,
            *(Ingredient(EXTERNAL, name, value, line) for name, value in sorted(external.items())),
        ),
        args=texts_of(spec),
        kwargs=dict(spec.kwargs),
        places=places_of(loaded.doc, spec.name),
        estimate_seconds=prospect.estimate_seconds,
        network=needs.network,
        tools=needs.tools,
        disk_bytes=needs.disk_bytes,
        secrets=needs.secrets,
        host_code=prospect.runs_host_code,
    )
