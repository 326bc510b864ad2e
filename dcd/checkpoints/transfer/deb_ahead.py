"""The listed packages, downloaded into the package store while the base is installed.

The installation of the base does not use the network, and seldom more than one processor. The download is a
process, in a mount namespace of its own, since the store, proxies and settings must be out of the reach of
the packages' scripts. It only fills the store: what it cannot download, the rest downloads, and tells why if
that fails too.
"""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

from dcd.checkpoints.interface import Context, Report
from dcd.manifest.doc import distro
from dcd.platform.apt import HostApt, Source
from dcd.platform.apt_root import Place, WantedFile, download_files, transfers
from dcd.platform.sandbox import is_apart
from store.host.mounts import NO_DEVICES, NO_SUID, bind, mount, new_mount_namespace
from store.packages import Lent

_DIRECTORY = "ahead"


@contextmanager
def fetched_ahead(
    context: Context,
    place: Place,
    host: HostApt,
    sources: Sequence[Source],
    wanted: Mapping[str, WantedFile],
) -> Iterator[None]:
    """Download the files `wanted` that the store does not have during the body."""
    store = context.packages
    missing = [file for file in wanted.values() if store and not store.has(file.sha256)]
    if store is None or not missing or not is_apart():
        yield
        return
    waits, ready = os.pipe()
    child = os.fork()
    if child == 0:
        _fetch_and_exit(context, store, place, host, sources, missing, ready)
    os.close(ready)
    try:
        with os.fdopen(waits) as opened:
            opened.read()
        yield
        if os.waitpid(child, os.WNOHANG) == (0, 0):
            context.report(Report(message="downloading the listed packages"))
            os.waitpid(child, 0)
        child = 0
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _fetch_and_exit(
    context: Context,
    store: Lent,
    place: Place,
    host: HostApt,
    sources: Sequence[Source],
    missing: Sequence[WantedFile],
    ready: int,
) -> NoReturn:
    """Close `ready` in a mount namespace that keeps the store, which the caller takes away from its own."""
    try:
        new_mount_namespace()
        os.close(ready)
        apart = Place(place.root, place.aside / _DIRECTORY)
        apart.aside.mkdir()
        mount("tmpfs", apart.aside, "mode=711", NO_SUID | NO_DEVICES)
        apart.settings.write_text(place.settings.read_text())
        on_disk, shown = context.tmp / _DIRECTORY, apart.aside / "packages"
        for directory in (on_disk, shown):
            directory.mkdir()
        bind(on_disk, shown)
        with transfers(apart, host, sources, distro(context.doc).http_proxy or "") as online:
            download_files(online, missing, shown)
        for file in missing:
            store.keep(shown / file.name)
    except Exception as error:  # noqa: BLE001 - the rest downloads what is missing
        first = str(error).partition("\n")[0]
        print(f"# the listed packages are not downloaded ahead: {first}", flush=True)
    finally:
        os._exit(0)
