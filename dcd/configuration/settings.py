"""Every setting of the daemon, described once.

A field of `Configuration` is a setting; its metadata documents it. The TOML file, the SMF property
group and its templates, `dcctl config` and docs/reference/configuration.md are all generated from this
table, so none of them can omit a setting. Pure data, without reading or checking.
"""

# ruff: noqa: RUF009 - `_setting` makes a field

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dcd.configuration.webhooks import Webhook

ILLUMOS_RUN_DIRECTORY = Path("/var/run/dcd")
RUN_DIRECTORY = ILLUMOS_RUN_DIRECTORY if sys.platform == "sunos5" else Path("/run/dcd")


class Mode(int):
    """Permission bits; shown to people as an octal string."""

    def __str__(self) -> str:
        return f"{int(self):04o}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. `kind` is the Python type of the value, `unit` is `bytes`, `seconds` or
    empty, `choices` limit a string, `pattern` each of its texts, as `form` says for people, `minimum` a
    number; `environment` names a variable that sets it; `reloads` means that a reload applies it; the others
    need a restart."""

    name: str
    kind: Any
    default: Any
    description: str
    unit: str = ""
    choices: tuple[str, ...] = ()
    pattern: str = ""
    form: str = ""
    minimum: int = 0
    environment: str = ""
    reloads: bool = False


def _setting(default: Any, description: str, **facts: Any) -> Any:
    """A field of `Configuration`; `facts` are those of `Setting`."""
    facts |= {"default": default, "description": description}
    return field(default_factory=lambda: default, metadata=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The values of all settings. Roles name users (`alice`) and groups (`@staff`)."""

    state_dir: Path = _setting(
        Path("/var/lib/dcd"),
        "The directory of the event log, layers, blobs, logs and artifacts. Only one daemon can "
        "use it at a time.",
        environment="DCD_STATE_DIR",
    )
    socket: Path = _setting(
        RUN_DIRECTORY / "dcd.sock",
        "The Unix socket on which the daemon listens. Ignored when systemd passes a socket.",
        environment="DCD_SOCKET",
    )
    group: str = _setting(
        "dcd",
        "The group that may connect to the socket. Empty: the daemon's own. A daemon that does "
        "not run as root does not change the group.",
    )
    socket_mode: Mode = _setting(
        Mode(0o660),
        "Permissions of the socket, in octal. Ignored when systemd passes a socket.",
    )
    artifact_group: str = _setting(
        "",
        "The group that may read artifacts, which are in `artifacts` below the state directory. "
        "Only root can read the rest of the state directory. Empty: the first group in "
        "`observe`, so that file access does not exceed the API's; without such a group, only "
        "root.",
    )
    builder_id: str = _setting(
        "",
        "The URI that names this build server in the provenance of builds, such as "
        "`https://builds.example.org/`. Recipients compare it with the one that they trust. Empty: "
        "`urn:dcd:builder:unnamed`.",
        reloads=True,
    )
    signing_key: str = _setting(
        "",
        "The file of the key that signs provenance and `SHA256SUMS`: Ed25519 in PEM, mode 0600, of root, "
        "made by `dcd key new`. No checkpoint and no other process of the daemon can read it. Empty: "
        "nothing is signed by a key. Needs the extra `dcd[sign]`.",
    )
    signing_gpg: str = _setting(
        "",
        "The id of the key by which gpg signs `SHA256SUMS` as well, best its fingerprint. It has no "
        "password. Empty: no signature by gpg.",
    )
    signing_gpg_home: Path = _setting(
        Path("/etc/dcd/gnupg"),
        "The directory of gpg with that key, which only root can read (gpg --homedir).",
    )
    max_running_builds: int = _setting(
        2,
        "The number of builds that run at once; the others are queued.",
        minimum=1,
        reloads=True,
    )
    layer_backend: str = _setting(
        "auto",
        "The storage of layers. `auto` selects the best one that works on the state directory.",
        choices=("auto", "zfs", "btrfs", "overlay", "copy"),
    )
    layers_max_bytes: int = _setting(
        0,
        "When all layers together exceed this size, layers that no build needs are removed, "
        "least recently used first. 0: no limit.",
        unit="bytes",
        reloads=True,
    )
    failed_builds_days: int = _setting(
        0,
        "Failed and cancelled builds without a change for so many days are removed, as by `dcctl rm`. "
        "0: they stay until somebody removes them.",
        reloads=True,
    )
    completed_builds_days: int = _setting(
        0,
        "Completed builds that ended so many days ago are removed with their artifacts, except for those "
        "that `completed_builds_kept` keeps. 0: they stay until somebody removes them.",
        reloads=True,
    )
    completed_builds_kept: int = _setting(
        1,
        "The number of newest completed builds of each distribution that are never removed by their age.",
        reloads=True,
    )
    packages_max_bytes: int = _setting(
        8 * 1024**3,
        "When all downloaded packages together exceed this size, the least recently used are removed. "
        "All builds share them. Those that `capture` keeps count, but stay. 0: no limit.",
        unit="bytes",
        reloads=True,
    )
    capture: str = _setting(
        "packages",
        "What is kept of the packages that a transfer puts into an image, as long as the build has its "
        "products: `packages` keeps the packages and the repository files that they were chosen by, so "
        "that the image can be rebuilt without a mirror; `digests` only a list with their digests; "
        "`none` nothing, so that SBOM and provenance lack these digests.",
        choices=("packages", "digests", "none"),
        reloads=True,
    )
    scrub_days: float = _setting(
        30.0,
        "Every layer is read and compared with its content manifest once in this number of days, in "
        "the background and with the lowest priority. 0: never; layers are still checked before "
        "they are reused.",
        reloads=True,
    )
    min_free_bytes: int = _setting(
        1024**3,
        "With less free space than this in the state directory no checkpoint starts: its build "
        "is paused with that reason.",
        unit="bytes",
        reloads=True,
    )
    grown_builds: str = _setting(
        "allowed",
        "Whether builds may add packages to the result of an earlier build (`dcctl submit --grow`). "
        "`refused` is for a server that builds releases.",
        choices=("allowed", "refused"),
        reloads=True,
    )
    include_directories: tuple[Path, ...] = _setting(
        (),
        "Directories of the server from which a manifest may XInclude files. The client reads "
        "files beside the manifest, which need no entry.",
        reloads=True,
    )
    include_map: Mapping[str, Path] = _setting(
        {},
        "Maps a prefix of an XInclude href to a directory, for manifests written for another "
        "host. The directory is also allowed as in `include_directories`.",
        reloads=True,
    )
    checkpoint_modules: tuple[str, ...] = _setting(
        (),
        "Python modules that a manifest may name in mod_path, in addition to those of the "
        "project and of installed plug-ins; `package.*` means all modules below a package. "
        "Submitting a manifest that uses them needs `host_code`.",
        reloads=True,
    )
    stop_grace_seconds: float = _setting(
        30.0,
        "How long running checkpoints may continue when the daemon stops. After that they are "
        "interrupted and run again when the daemon starts.",
        unit="seconds",
        reloads=True,
    )
    cancel_grace_seconds: float = _setting(
        10.0,
        "The time between the request to stop a checkpoint and its kill.",
        unit="seconds",
        reloads=True,
    )
    worker: str = _setting(
        "auto",
        "The kind of workers. `namespaces`: each attempt has Linux namespaces and a root of its own. "
        "`portable`: it has none, so checkpoints that mount, or run programs inside the image, are refused, "
        "and the others see the whole host. `auto`: `namespaces` on Linux with setpriv(1) and unshare(1), "
        "elsewhere `portable`.",
        choices=("auto", "namespaces", "portable"),
    )
    worker_paths: tuple[Path, ...] = _setting(
        (),
        "Files and directories of the server that checkpoints can read in addition to the "
        "system's software in /usr and the inputs of the manifest: tools in /opt, for instance. "
        "Every user who may submit can read them, regardless of their permissions.",
        reloads=True,
    )
    publish_directories: tuple[Path, ...] = _setting(
        (),
        "Directories of the server in which, and below which, the checkpoint PublishDirectory may put "
        "products, for every user who may submit. A private daemon may use all.",
        reloads=True,
    )
    worker_open_files: int = _setting(
        16384,
        "The maximum number of open files of a process of a checkpoint.",
        minimum=64,
        reloads=True,
    )
    worker_processes: int = _setting(
        4096,
        "The maximum number of processes and threads of an attempt (on Linux 6.14 or newer, or "
        "with a control group delegated to the daemon; otherwise only the service's limit "
        "applies).",
        minimum=512,
        reloads=True,
    )
    worker_memory_bytes: int = _setting(
        0,
        "The maximum data memory of a process of a checkpoint, including a virtual machine's "
        "memory. 0: only the service's limit.",
        unit="bytes",
        reloads=True,
    )
    attempt_memory_bytes: int = _setting(
        0,
        "The maximum memory of all processes of an attempt together, including the kernel's "
        "cache of their files; an attempt that exceeds it fails. Needs a control group "
        "delegated to the daemon, as by the systemd unit. 0: only the service's limit.",
        unit="bytes",
        reloads=True,
    )
    log_format: str = _setting(
        "auto",
        "Form of the daemon's own log on standard error. `auto`: `journald` where standard "
        "error is the journal, `console` on a terminal, else `json`.",
        choices=("auto", "console", "json", "journald"),
    )
    log_level: str = _setting(
        "info",
        "The minimum level of logged messages.",
        choices=("debug", "info", "warning", "error"),
        reloads=True,
    )
    elements_limit: int = _setting(
        50_000,
        "The maximum number of XML elements of a manifest, including those of included files.",
        minimum=100,
        reloads=True,
    )
    checkpoints_limit: int = _setting(
        500,
        "The maximum number of checkpoints of a manifest.",
        minimum=1,
        reloads=True,
    )
    planning_seconds: float = _setting(
        180.0,
        "The maximum time for reading and planning a manifest, including the response times of "
        "repositories. Each manifest is read in a separate process, one at a time per user.",
        unit="seconds",
        reloads=True,
    )
    planning_memory_bytes: int = _setting(
        768 * 1024**2,
        "The maximum data memory of the process that reads and plans a manifest.",
        unit="bytes",
        minimum=128 * 1024**2,
        reloads=True,
    )
    body_limit_bytes: int = _setting(
        4 * 1024**2,
        "The maximum size of a request body, except for blobs.",
        unit="bytes",
        minimum=64 * 1024,
    )
    blob_limit_bytes: int = _setting(
        1024**3,
        "The maximum size of a file that a client uploads for a manifest.",
        unit="bytes",
        minimum=1,
    )
    header_limit_bytes: int = _setting(
        16 * 1024,
        "The maximum size of request line and headers together.",
        unit="bytes",
        minimum=1024,
    )
    request_timeout_seconds: float = _setting(
        30.0,
        "A client that sends nothing for this long during a request is disconnected.",
        unit="seconds",
    )
    send_timeout_seconds: float = _setting(
        30.0,
        "A client that reads nothing of its response for this long is disconnected.",
        unit="seconds",
    )
    idle_timeout_seconds: float = _setting(
        60.0,
        "A connection without a request is closed after this time.",
        unit="seconds",
    )
    requests_per_client: int = _setting(
        4,
        "The number of requests of one client process that are handled at once; the others wait "
        "for their turn, and are refused after `request_timeout_seconds`. A user other than "
        "root has four times as many turns for all processes together. Followers do not count.",
        minimum=1,
    )
    connections_per_user: int = _setting(
        1000,
        "The maximum number of connections of a user to the daemon, including followers.",
        minimum=1,
    )
    observe: tuple[str, ...] = _setting(
        ("@dcd",),
        "Role: see builds, their events, logs and artifacts. Entries of all roles are users, or "
        "groups with a leading `@`; root and the daemon's own user have all roles.",
        reloads=True,
    )
    submit: tuple[str, ...] = _setting(
        ("@dcd",),
        "Role: submit builds; pause, resume, move, cancel and remove one's own builds. Includes "
        "`observe`.",
        reloads=True,
    )
    operate: tuple[str, ...] = _setting(
        (),
        "Role: pause, resume, move, cancel and remove all builds. Includes `submit`.",
        reloads=True,
    )
    administer: tuple[str, ...] = _setting(
        (),
        "Role: reload the daemon, collect garbage, back up the event log, and, with root, open "
        "shells in builds. Includes `operate`, not `host_code`.",
        reloads=True,
    )
    host_code: tuple[str, ...] = _setting(
        (),
        "Right: submit manifests that run the submitter's code outside the image (custom "
        "scripts, modules outside the project). It is equivalent to root on the server.",
        reloads=True,
    )
    notify: tuple[Webhook, ...] = _setting(
        (),
        "Webhooks: a table `[[notify]]` for each, with `name`, `url`, `secret` (the file of the key that "
        "signs, mode 0600), and if wanted `events`, `outcomes`, `builds`, `ca` and `timeout_seconds`. "
        "See docs/how-to/notify.md. A hook with a new name begins with the present event.",
        reloads=True,
    )
    secret_users: tuple[str, ...] = _setting(
        (),
        "Users who may use a secret in addition to its owner and group: `SECRET=USER` or "
        "`SECRET=@GROUP`. SECRET is a file below /etc/dcd/secrets, or a variable "
        "`DCD_SECRET_...` of the daemon's environment; a variable has no owner, so only root "
        "may use it unless it is listed here.",
        reloads=True,
    )
    farm_database: str = _setting(
        "",
        "The database of a farm, which makes this daemon a member of it: a connection string of libpq "
        "without a password, for the role that `dcd farm member add` made. In TOML also `database` in the "
        "table `[farm]`. Empty: a single machine. Needs the extra `dcd[farm]`.",
    )
    farm_registry: str = _setting(
        "",
        "The repository of a container registry through which build servers share layers: "
        "`https://registry.example/dcd`. It is of use with `farm_database` and without. In TOML also "
        "`registry` in the table `[farm]`. Empty: layers stay here. See docs/how-to/share-layers.md.",
        form="such as https://registry.example/dcd",
        pattern=r"(https?://[A-Za-z0-9.\-\[\]:]+(/[a-z0-9]+([._\-]+[a-z0-9]+)*)+)?",
    )
    farm_registry_login: str = _setting(
        "",
        "The secret with USER:PASSWORD for `farm_registry`: a file below /etc/dcd/secrets, or a variable "
        "of the daemon, DCD_SECRET_NAME. In TOML also `registry_login` in the table `[farm]`. Empty: no "
        "login.",
        form="that names a secret: /etc/dcd/secrets/NAME or DCD_SECRET_NAME",
        pattern=r"(/etc/dcd/secrets/.+|DCD_SECRET_[A-Z0-9_]+)?",
    )
    farm_labels: tuple[str, ...] = _setting(
        (),
        "Labels of this member beside those that it finds itself, which builds may require: a rack, a "
        "licence. Builds are placed by them once the administrator has granted them as well. In TOML also "
        "`labels` in `[farm]`.",
        pattern=r"[A-Za-z0-9_][A-Za-z0-9_./:%~\-]*",
        form="of letters, digits and _ . / : % ~ -",
    )
    farm_lost_seconds: float = _setting(
        120.0,
        "How long a member may be silent before others take its builds. The same on all members. In TOML "
        "also `lost_seconds` in `[farm]`.",
        unit="seconds",
        minimum=1,
    )


SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        declared.name: Setting(name=declared.name, kind=declared.type, **declared.metadata)
        for declared in fields(Configuration)
    }
)
"""The settings, in the order of the table."""
