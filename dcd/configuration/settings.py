"""Every setting of the daemon, described once.

A field of `Configuration` is a setting; its metadata says what a person must know. The TOML file, the
SMF property group and its templates, `dcctl config` and docs/reference/configuration.md all come from
this table, so none of them can forget a setting. Pure data: reads nothing, checks nothing.
"""

import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

ILLUMOS_RUN_DIRECTORY = Path("/var/run/dcd")
RUN_DIRECTORY = ILLUMOS_RUN_DIRECTORY if sys.platform == "sunos5" else Path("/run/dcd")


class Mode(int):
    """Permission bits; written in octal, as a string, wherever a person sees them."""

    def __str__(self) -> str:
        return f"{int(self):04o}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. `kind` is the Python type of the value, `unit` is `bytes`, `seconds` or
    empty, `choices` limit a string, `minimum` a number; `environment` names a variable that sets it;
    `reloads` says that a reload applies it, the others need a restart."""

    name: str
    kind: Any
    default: Any
    description: str
    unit: str
    choices: tuple[str, ...]
    minimum: int
    environment: str
    reloads: bool


def _about(
    description: str,
    *,
    unit: str = "",
    choices: tuple[str, ...] = (),
    minimum: int = 0,
    environment: str = "",
    reloads: bool = False,
) -> dict[str, Any]:
    return {
        "description": description,
        "unit": unit,
        "choices": choices,
        "minimum": minimum,
        "environment": environment,
        "reloads": reloads,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The values of all settings. Roles name users (`alice`) and groups (`@staff`)."""

    state_dir: Path = field(
        default=Path("/var/lib/dcd"),
        metadata=_about(
            "Where the event log, layers, blobs, logs and artifacts live. One daemon at a time uses it.",
            environment="DCD_STATE_DIR",
        ),
    )
    socket: Path = field(
        default=RUN_DIRECTORY / "dcd.sock",
        metadata=_about(
            "The Unix socket on which the daemon answers. Ignored when systemd hands a socket over.",
            environment="DCD_SOCKET",
        ),
    )
    group: str = field(
        default="dcd",
        metadata=_about(
            "The group that may connect to the socket. Empty: the daemon's own. A daemon that is not root "
            "leaves the group alone.",
        ),
    )
    socket_mode: Mode = field(
        default=Mode(0o660),
        metadata=_about(
            "Permissions of the socket, in octal. Ignored when systemd hands it over.",
        ),
    )
    artifact_group: str = field(
        default="",
        metadata=_about(
            "The group that may read delivered artifacts, which are in `artifacts` below the state "
            "directory. Everything else in the state directory is for root alone. Empty: the first group "
            "in `observe`, so that nobody reads there what the daemon would refuse to show; without one, "
            "root alone.",
        ),
    )
    max_running_builds: int = field(
        default=2,
        metadata=_about(
            "How many builds run at once; the others queue.",
            minimum=1,
            reloads=True,
        ),
    )
    layer_backend: str = field(
        default="auto",
        metadata=_about(
            "How layers are stored. `auto` takes the best that works on the state directory.",
            choices=("auto", "zfs", "btrfs", "overlay", "copy"),
        ),
    )
    layers_max_bytes: int = field(
        default=0,
        metadata=_about(
            "Layers that no build needs are removed, least recently used first, when all layers together "
            "take more than this. 0: no limit.",
            unit="bytes",
            reloads=True,
        ),
    )
    min_free_bytes: int = field(
        default=1024**3,
        metadata=_about(
            "With less free space than this in the state directory no checkpoint starts: its build is "
            "paused and says why.",
            unit="bytes",
            reloads=True,
        ),
    )
    include_directories: tuple[Path, ...] = field(
        default=(),
        metadata=_about(
            "Directories of the server below which a manifest may XInclude files. Files beside the "
            "manifest are read by the client and need no entry.",
            reloads=True,
        ),
    )
    include_map: Mapping[str, Path] = field(
        default_factory=dict,
        metadata=_about(
            "Maps the beginning of an XInclude href to a directory, for manifests that were written for "
            "another host. The directory counts as one of `include_directories`.",
            reloads=True,
        ),
    )
    checkpoint_modules: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            "Python modules, beside those of the project and of installed plug-ins, that a manifest may "
            "name in mod_path; `package.*` means all below a package. Submitting a manifest that does "
            "so needs `host_code`.",
            reloads=True,
        ),
    )
    stop_grace_seconds: float = field(
        default=30.0,
        metadata=_about(
            "How long running checkpoints may go on, to reach their end, when the daemon stops. After "
            "that they are interrupted and start again with the daemon.",
            unit="seconds",
            reloads=True,
        ),
    )
    cancel_grace_seconds: float = field(
        default=10.0,
        metadata=_about(
            "How long a checkpoint that was asked to stop may take before it is killed.",
            unit="seconds",
            reloads=True,
        ),
    )
    worker_paths: tuple[Path, ...] = field(
        default=(),
        metadata=_about(
            "Files and directories of the server that checkpoints see, read-only, beside the system's "
            "software in /usr and what the manifest names: tools in /opt, for instance. Everybody who may "
            "submit can read what is in them, whatever its permissions are.",
            reloads=True,
        ),
    )
    worker_open_files: int = field(
        default=16384,
        metadata=_about(
            "How many files a process of a checkpoint may have open.",
            minimum=64,
            reloads=True,
        ),
    )
    worker_processes: int = field(
        default=4096,
        metadata=_about(
            "How many processes and threads an attempt may have at once (on Linux from 6.14 on, and where a "
            "control group was delegated to the daemon; otherwise only the service's limit holds).",
            minimum=512,
            reloads=True,
        ),
    )
    worker_memory_bytes: int = field(
        default=0,
        metadata=_about(
            "How much memory a process of a checkpoint may take for its data: a virtual machine's is "
            "part of it. 0: no limit but the service's own.",
            unit="bytes",
            reloads=True,
        ),
    )
    attempt_memory_bytes: int = field(
        default=0,
        metadata=_about(
            "How much memory all processes of an attempt may take together, the kernel's cache of their "
            "files included; one that takes more fails. Needs a control group that was delegated to the "
            "daemon, as the systemd unit does. 0: no limit but the service's own.",
            unit="bytes",
            reloads=True,
        ),
    )
    log_format: str = field(
        default="auto",
        metadata=_about(
            "Form of the daemon's own log on standard error. `auto`: `journald` where standard error is "
            "the journal, `console` on a terminal, else `json`.",
            choices=("auto", "console", "json", "journald"),
        ),
    )
    log_level: str = field(
        default="info",
        metadata=_about(
            "The least level that is logged.",
            choices=("debug", "info", "warning", "error"),
            reloads=True,
        ),
    )
    elements_limit: int = field(
        default=50_000,
        metadata=_about(
            "How many XML elements a manifest may have, with those of the files that it includes.",
            minimum=100,
            reloads=True,
        ),
    )
    checkpoints_limit: int = field(
        default=500,
        metadata=_about(
            "How many checkpoints a manifest may have.",
            minimum=1,
            reloads=True,
        ),
    )
    planning_seconds: float = field(
        default=180.0,
        metadata=_about(
            "How long it may take to read and plan a manifest, with what repositories take to answer. Each "
            "is read in a process of its own, one at a time for a user.",
            unit="seconds",
            reloads=True,
        ),
    )
    planning_memory_bytes: int = field(
        default=768 * 1024**2,
        metadata=_about(
            "How much memory the process that reads and plans a manifest may take for its data.",
            unit="bytes",
            minimum=128 * 1024**2,
            reloads=True,
        ),
    )
    body_limit_bytes: int = field(
        default=4 * 1024**2,
        metadata=_about(
            "Largest body of a request, blobs apart.",
            unit="bytes",
            minimum=64 * 1024,
        ),
    )
    blob_limit_bytes: int = field(
        default=1024**3,
        metadata=_about(
            "Largest file that a client may upload for a manifest.",
            unit="bytes",
            minimum=1,
        ),
    )
    header_limit_bytes: int = field(
        default=16 * 1024,
        metadata=_about(
            "Largest request line and headers together.",
            unit="bytes",
            minimum=1024,
        ),
    )
    request_timeout_seconds: float = field(
        default=30.0,
        metadata=_about(
            "A client that sends nothing for this long in mid-request is cut off.",
            unit="seconds",
        ),
    )
    send_timeout_seconds: float = field(
        default=30.0,
        metadata=_about(
            "A client that takes nothing of its answer for this long is cut off.",
            unit="seconds",
        ),
    )
    idle_timeout_seconds: float = field(
        default=60.0,
        metadata=_about(
            "A connection without a request is closed after this long.",
            unit="seconds",
        ),
    )
    requests_per_client: int = field(
        default=4,
        metadata=_about(
            "How many requests of one client process are worked on at once; the others wait their turn, "
            "and are refused when it does not come within `request_timeout_seconds`. A user other than root "
            "has four times as many turns, for all processes together. Followers need none.",
            minimum=1,
        ),
    )
    connections_per_user: int = field(
        default=1000,
        metadata=_about(
            "How many connections a user may have to the daemon, followers among them.",
            minimum=1,
        ),
    )
    observe: tuple[str, ...] = field(
        default=("@dcd",),
        metadata=_about(
            "Role: see builds, their events, logs and artifacts. Entries of every role are users, or "
            "groups with a leading `@`; root and the daemon's own user have every role.",
            reloads=True,
        ),
    )
    submit: tuple[str, ...] = field(
        default=("@dcd",),
        metadata=_about(
            "Role: submit builds; pause, resume, cancel and remove one's own. Includes `observe`.",
            reloads=True,
        ),
    )
    operate: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            "Role: pause, resume, cancel and remove anybody's builds. Includes `submit`.",
            reloads=True,
        ),
    )
    administer: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            "Role: reload the daemon, collect garbage, back up the event log, and, with root, open shells in "
            "builds. Includes `operate`, not `host_code`.",
            reloads=True,
        ),
    )
    host_code: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            "Right: submit manifests that run the submitter's code outside the image (custom scripts, "
            "modules of others). It is as good as root on the server.",
            reloads=True,
        ),
    )

    secret_users: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            "Who may use which secret beside its owner and group: `SECRET=USER` or `SECRET=@GROUP`. SECRET "
            "is a file below /etc/dcd/secrets, or a variable `DCD_SECRET_...` of the daemon's environment: "
            "that has no owner, so that root alone may use it unless it is lent here.",
            reloads=True,
        ),
    )


def _default(declared: Field[Any]) -> Any:
    factory = declared.default_factory
    return declared.default if factory is MISSING else factory()


SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        declared.name: Setting(
            name=declared.name,
            kind=declared.type,
            default=_default(declared),
            **declared.metadata,
        )
        for declared in fields(Configuration)
    }
)
"""The table, in its order."""
