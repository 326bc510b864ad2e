"""Results where users of the original look: the ZFS file system of the manifest's target.

The original left media in DATASET/media, and in DATASET/logs a simple log (what ran) and a detail log
(what the tools printed), with the time of the build in their names. `distro_const` copies the results
there with the rights of the user, after the build has stopped; the daemon itself writes nothing outside
its state directory.
"""

import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from cli.client import ClientError, Json, build_path, read, request
from cli.download import fetch
from cli.stream import events
from cli.text import event_summary, local_time, printable

MANIFESTS = ("BuildSubmitted", "BuildResumed")
ATTEMPTS = ("CheckpointCompleted", "CheckpointFailed", "CheckpointInterrupted")


class Delivered(NamedTuple):
    """The files that were written."""

    media: tuple[Path, ...]
    logs: tuple[Path, ...]


def deliver(socket: str, build: str) -> Delivered | None:
    """Copy the products of a completed build, and the logs of any build, into the dataset of its target.
    Returns None for a manifest without one. Raises ClientError when the dataset cannot be used."""
    history = list(events(socket, build))
    dataset = _dataset(history)
    if not dataset:
        return None
    place = _mount_point(dataset)
    logs, media = place / "logs", place / "media"
    try:
        logs.mkdir(exist_ok=True)
        media.mkdir(exist_ok=True)
        stamp = time.strftime("%Y-%m-%d-%H-%M-%S")
        written = _write_logs(socket, build, history, logs, stamp)
    except OSError as error:
        raise _unusable(dataset, f"{error.filename}: {error.strerror}") from None
    copied = []
    for artifact in request(socket, "GET", build_path(build, "artifacts"))["artifacts"]:
        if not artifact["evidence"]:
            fetch(socket, build, artifact, media)
            copied.append(media / artifact["name"])
    return Delivered(tuple(copied), written)


def _dataset(history: list[Json]) -> str:
    """POOL/FILESYSTEM of the target in the newest manifest of a build; "" for a target without one."""
    texts = [
        each["data"]["manifest"]
        for each in history
        if each["type"] in MANIFESTS and each["data"].get("manifest")
    ]
    manifest = ElementTree.fromstring(texts[-1])  # noqa: S314, the daemon has validated it
    for pool in manifest.iterfind("./distro/target/logical/zpool"):
        for file_system in pool.iterfind("filesystem"):
            return f"{pool.get('name')}/{file_system.get('name')}"
    return ""


def _mount_point(dataset: str) -> Path:
    """The directory of a mounted ZFS file system (zfs(8), property `mountpoint`). Raises ClientError."""
    zfs = shutil.which("zfs", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if zfs is None:
        raise _unusable(dataset, "this host has no zfs command")
    command = [zfs, "get", "-H", "-p", "-o", "value", "mounted,mountpoint", dataset]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise _unusable(dataset, found.stderr.strip() or "zfs get failed")
    mounted, place = found.stdout.rstrip("\n").split("\n", 1)
    if mounted != "yes" or not place.startswith("/"):
        raise _unusable(dataset, "it is not mounted")
    return Path(place)


def _unusable(dataset: str, reason: str) -> ClientError:
    return ClientError(
        "refused",
        f"the results are not in {dataset}, the dataset of the manifest's target",
        reason,
        "create and mount the dataset, or take the results from the daemon",
    )


def _write_logs(
    socket: str, build: str, history: list[Json], directory: Path, stamp: str
) -> tuple[Path, ...]:
    simple, detail = directory / f"simple-log-{stamp}", directory / f"detail-log-{stamp}"
    with simple.open("x") as few, detail.open("xb") as all_:
        for each in history:
            line = _line(each)
            few.write(f"{line}\n")
            all_.write(f"{line}\n".encode())
            if each["type"] in ATTEMPTS:
                path = ("logs", each["data"]["checkpoint"], str(each["data"]["attempt"]))
                for piece in read(socket, build_path(build, *path)):
                    all_.write(piece)
    return simple, detail


def _line(event: Json) -> str:
    """An event as a line of the simple log."""
    words = (local_time(event["time"]), event["type"], event_summary(event["data"]))
    return printable(" ".join(filter(None, words))).replace("\n", " ")
