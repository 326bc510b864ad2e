"""The use of space in the state directory. Blocking: measures every file of artifacts and logs."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage

from dcd.engine.garbage import pinned_keys
from dcd.engine.kept_packages import kept_packages
from dcd.engine.shells import SHELL
from dcd.engine.soundness import Soundness, soundness
from dcd.engine.stores import Stores
from statemachine.build import BuildState
from statemachine.errors import NotFound
from store.eventlog import EventLog
from store.layers import Layers
from store.layers.plain import allocated_bytes


@dataclass(frozen=True, slots=True)
class BuildUsage:
    """The space used by one build, in bytes: the layers that it created (with the part pinned by
    unfinished builds), its workspaces, artifacts and logs. `state` is the state of the build, or
    `removed`."""

    build: str
    name: str
    state: str
    layers: int = 0
    layer_bytes: int = 0
    pinned_bytes: int = 0
    workspace_bytes: int = 0
    artifact_bytes: int = 0
    log_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """The space used in the state directory, in bytes. `layers_max_bytes` is the configured limit, 0
    for none. An artifact that shares its blocks with a layer is counted in both."""

    state_dir: str
    total_bytes: int
    free_bytes: int
    layers_max_bytes: int
    layer_bytes: int
    pinned_bytes: int
    workspace_bytes: int
    blob_bytes: int
    artifact_bytes: int
    log_bytes: int
    event_log_bytes: int
    builds: tuple[BuildUsage, ...]
    retired_bytes: int = 0
    """The layers of unused back ends; `gc` removes them."""
    package_bytes: int = 0
    """Downloaded packages, which all builds share."""
    captured_bytes: int = 0
    """The part of them that builds and layers keep."""
    packages_max_bytes: int = 0


def measure(
    state_dir: Path,
    stores: Stores,
    events: EventLog,
    unfinished: Sequence[BuildState],
    layers_max_bytes: int,
    packages_max_bytes: int,
) -> DiskUsage:
    """Measure the state directory."""
    used: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    layers = list(stores.layers.layers())
    pinned = pinned_keys(layers, unfinished)
    for layer in layers:
        of_build = used[layer.record.made_by]
        of_build["layers"] += 1
        of_build["layer_bytes"] += layer.size_bytes
        if layer.record.key in pinned:
            of_build["pinned_bytes"] += layer.size_bytes
    shells = 0
    for name, size_bytes in stores.layers.workspaces():
        if name.startswith(SHELL):
            shells += size_bytes
        else:
            used[name.split(".")[0]]["workspace_bytes"] += size_bytes
    for kind, directory in (
        ("artifact_bytes", stores.artifacts.directory),
        ("log_bytes", stores.logs.directory),
    ):
        for path in directory.iterdir() if directory.exists() else ():
            used[path.name][kind] += allocated_bytes(path)
    builds = tuple(_described(events, build, sizes) for build, sizes in used.items())
    disk = disk_usage(state_dir)
    packages, kept = stores.packages.stored(), kept_packages(stores, events)
    return DiskUsage(
        state_dir=str(state_dir),
        total_bytes=disk.total,
        free_bytes=disk.free,
        layers_max_bytes=layers_max_bytes,
        layer_bytes=sum(usage.layer_bytes for usage in builds),
        pinned_bytes=sum(usage.pinned_bytes for usage in builds),
        workspace_bytes=sum(usage.workspace_bytes for usage in builds) + shells,
        blob_bytes=sum(blob.size_bytes for blob in stores.blobs.stored()),
        artifact_bytes=sum(usage.artifact_bytes for usage in builds),
        log_bytes=sum(usage.log_bytes for usage in builds),
        event_log_bytes=events.size_bytes(),
        builds=tuple(sorted(builds, key=_total, reverse=True)),
        retired_bytes=sum(map(held_bytes, stores.privileged.retired)),
        package_bytes=sum(package.size_bytes for package in packages),
        captured_bytes=sum(each.size_bytes for each in packages if each.sha256 in kept),
        packages_max_bytes=packages_max_bytes,
    )


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes in the state directory, in bytes, and the number and the state of the layers."""

    layers: int
    layer_bytes: int
    retired_bytes: int
    artifact_bytes: int
    event_log_bytes: int
    free_bytes: int
    soundness: Soundness


def sizes(stores: Stores, events: EventLog) -> Sizes:
    """The sizes for metrics; cheaper than `measure`."""
    layers = list(stores.layers.layers())
    artifacts = stores.artifacts.directory
    return Sizes(
        layers=len(layers),
        layer_bytes=sum(layer.size_bytes for layer in layers),
        retired_bytes=sum(map(held_bytes, stores.privileged.retired)),
        artifact_bytes=allocated_bytes(artifacts) if artifacts.exists() else 0,
        event_log_bytes=events.size_bytes(),
        free_bytes=disk_usage(events.directory).free,
        soundness=soundness(stores.layers),
    )


def held_bytes(store: Layers) -> int:
    """The total size of the layers and workspaces of a back end."""
    layers = sum(layer.size_bytes for layer in store.layers())
    return layers + sum(size_bytes for _, size_bytes in store.workspaces())


def _described(events: EventLog, build: str, sizes: dict[str, int]) -> BuildUsage:
    try:
        summary = events.summary(build)
    except NotFound:
        return BuildUsage(build, "", "removed", **sizes)
    state = "removed" if summary.removed else summary.state.value
    return BuildUsage(build, summary.name, state, **sizes)


def _total(usage: BuildUsage) -> int:
    return usage.layer_bytes + usage.workspace_bytes + usage.artifact_bytes + usage.log_bytes
