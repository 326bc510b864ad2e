"""What the daemon's main process asks of the launcher, as plain data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcd.worker.kinds import AUTO, Kind, chosen_kind
from statemachine.plan import Json, Locked, Stage
from statemachine.results import Artifact
from statemachine.variation import Variation
from store.host.capabilities import FILES
from store.host.plain import as_plain, from_plain


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a checkpoint needs of the host, as its `Needs` name it; `secrets` are files and variables.
    `host_code`: it runs code for which the right of that name was needed."""

    capabilities: tuple[str, ...] = FILES
    devices: tuple[str, ...] = ()
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    secrets: tuple[str, ...] = ()
    host_code: bool = False


@dataclass(frozen=True, slots=True)
class AttemptOrder:
    """An attempt at a checkpoint, in a workspace that is open. `inputs` maps a path, as the manifest resolves
    it, to the digest of the captured file; with `packages` it uses the package store, which captures what
    `capture` says (`store.packages`); `resolved` are the digests of the lists that it reads. The rest, such
    as `stage`, `below` and `handed`, is as in `dcd.worker.request.WorkerRequest`."""

    build: str
    checkpoint: str
    attempt: int
    mod_path: str
    checkpoint_class: str
    manifest: str
    workspace: str
    wanted: Wanted = field(default_factory=Wanted)
    args: tuple[Json, ...] = ()
    kwargs: dict[str, Json] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)
    manifest_path: str = ""
    places: tuple[str, ...] = ()
    network: bool = False
    packages: bool = False
    capture: str = "none"
    stage: str = Stage.WHOLE.value
    below: str = ""
    handed: str = ""
    variation: Variation | None = None
    resolved: tuple[str, ...] = ()
    host_files: tuple[str, ...] = ()
    products: dict[str, str] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    locked: Locked | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that the configuration, which only root can change, lets workers have.

    `private`: only its starter uses the daemon. `host_code`: code of users may run outside images,
    with what it asks for. `modules` are those that a
    manifest may name beside the project's own. `paths` are what every worker reads, `publish` are
    directories that products are put into, `hidden` what none sees,
    `keys` those of it that sign for this server: code of users gets no right that leads to them. `portable`:
    workers have no namespaces, so nothing is mounted. `shares_layers`: the main process may read layers, to
    send them to a registry, and bring others.
    """

    private: bool = False
    host_code: bool = False
    modules: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    publish: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    keys: tuple[Path, ...] = ()
    open_files: int = 16384
    memory_bytes: int = 0
    processes: int = 4096
    total_memory_bytes: int = 0
    portable: bool = False
    shares_layers: bool = False


def bounds_of(
    value: Callable[[str], Any],
    *,
    private: bool,
    hidden: tuple[Path, ...],
    keys: tuple[Path, ...] = (),
) -> Bounds:
    """The bounds in the settings, of which `value` gives each by its name, as an object or as JSON. The
    starter of a private daemon may run code. Raises ValueError for what is no setting's value."""
    plain = {
        "private": private,
        "host_code": private or bool(value("host_code")),
        "modules": value("checkpoint_modules"),
        "paths": value("worker_paths"),
        "publish": value("publish_directories"),
        "hidden": (*hidden, *keys),
        "keys": keys,
        "open_files": value("worker_open_files"),
        "memory_bytes": value("worker_memory_bytes"),
        "processes": value("worker_processes"),
        "total_memory_bytes": value("attempt_memory_bytes"),
        "portable": chosen_kind(value("worker"))[0] is Kind.PORTABLE,
        "shares_layers": bool(value("farm_registry")),
    }
    return from_plain(Bounds, as_plain(plain))


@dataclass(frozen=True, slots=True)
class Signing:
    """How products are signed: the path of the key ("": not at all), the id of gpg's key and its directory,
    and the id of the builder in statements ("": unnamed)."""

    key: str = ""
    gpg_key: str = ""
    gpg_home: Path = Path("/etc/dcd/gnupg")
    builder: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """The paths of the host that a question to a planner is about. It is shown secrets, and what everybody
    may read."""

    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Setup:
    """What the launcher is started with: the state directory, the user and group of the daemon's other
    processes and whether they differ from its own, the group that may read artifacts (None: the daemon's),
    the layer back end (None: the best), the setting `worker`, where the daemon listens, and the command that
    prints the settings as JSON."""

    state_dir: Path
    uid: int
    gid: int
    separate: bool
    artifact_gid: int | None
    backend: str | None
    socket: Path
    socket_mode: int
    socket_gid: int | None
    settings_command: tuple[str, ...]
    bounds: Bounds
    worker: str = AUTO
    signing: Signing = Signing()


@dataclass(frozen=True, slots=True)
class Prepared:
    """The state directory is ready: the back end of layers in use, why, and the others that have files; the
    names of control groups' controllers, what was removed of a dead daemon, for its log, and the kind of
    workers, with the reason. `obstacle` is why no worker can be started, or "", with the remedy."""

    backend: str
    reason: str
    retired: tuple[str, ...]
    controllers: tuple[str, ...]
    removed: tuple[str, ...]
    worker: str
    worker_reason: str
    obstacle: str = ""
    remedy: str = ""
