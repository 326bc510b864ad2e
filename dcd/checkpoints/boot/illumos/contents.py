"""`TextBootArchiveConfigure`, `LiveCDBootArchiveConfigure`, `AIBootArchiveConfigure`: the boot archive area
becomes the root of a live system.

It gets the directories and links that the live system mounts on, the SMF repository of the image, a file that
tells the medium from others (.volsetid), and one for the kind of medium. Below /etc and /var it has all
directories of the image; files that were not copied are links to /mnt/misc, where the live system mounts the
rest. devfsadm(8) fills /dev on illumos; elsewhere the live system does, since it always starts with
/reconfigure.
Source: the original's checkpoint boot_archive_configure; OpenIndiana's boot_archive_configure.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.illumos_host import is_illumos
from dcd.checkpoints.image.illumos.saved import save_copy
from dcd.checkpoints.image.illumos.smf import REPOSITORY
from dcd.checkpoints.image.illumos.transfer_manifest import MISC
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.times import source_date_epoch
from dcd.manifest.diagnostics import Diagnostic, warning
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.forms import MARKER
from dcd.platform.inside import (
    entry,
    make_directory,
    may_set_owners,
    new_file,
    regular_file,
    resolve,
    write,
)
from statemachine.errors import CheckpointError

_DIRECTORIES = ("proc", "mnt", "mnt/misc", "mnt/pkg", ".cdrom")
_LINKS = {"bin": "usr/bin", "opt": "mnt/misc/opt"}
_PARTIAL = ("etc", "var")
"""The directories of which the archive has only a part."""
_LOCK = "etc/dev/.devfsadm_dev.lock"
_GDM = "etc/gdm/custom.conf"
_SUDOERS = "etc/sudoers"
_AUTOMATIC_LOGIN = "AutomaticLoginEnable=true\nAutomaticLogin=jack\nGdmXserverTimeout=30\n"
_LIVE_USER = "jack"
_LEFT_LOCK = ".pwd.lock"
"""Left over from the transfer; as a link it would keep installers from making accounts."""


@dataclass(frozen=True)
class _BootArchiveConfigure(Checkpoint):
    """The steps that the three kinds of media share."""

    DESCRIPTION = "Configure the boot archive"
    EXPECTED_SECONDS = 20.0
    REQUIRES = (products.ARCHIVE_TREE, products.IMAGE)
    PROVIDES = (products.ARCHIVE_SETTINGS,)
    READS = ("//distro.name",)

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(tools=("devfsadm",) if is_illumos() else ())

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        if not is_illumos():
            yield warning(
                self.argument_place(doc),
                f"{self.name} makes no device links: this host has no devfsadm",
                "The live system makes them itself when it starts, from /reconfigure.",
                "nothing needs to be done, or build on illumos",
            )

    def execute(self, context: Context) -> None:
        archive = context.boot_archive
        if not any(archive.iterdir()):
            raise products.missing(products.ARCHIVE_TREE, f"{archive} is empty")
        _configure_system(context, self._marker())
        self._finish(context)
        context.report(Report(0.5, "linking the files that are not in the boot archive"))
        made = link_the_rest(context.pkg_image, archive)
        context.report(Report(1.0, f"{made} links to {MISC}"))

    def _marker(self) -> str:
        """The name of the file for the kind of medium."""
        raise NotImplementedError

    def _finish(self, context: Context) -> None:
        """What one kind of medium needs besides."""


@dataclass(frozen=True)
class TextBootArchiveConfigure(_BootArchiveConfigure):
    """Configure the boot archive of a medium with the text installer."""

    image_type: Annotated[str, MARKER] = ".textinstall"
    """The file in the root of the live system that tells its services what it is."""

    def _marker(self) -> str:
        return self.image_type


@dataclass(frozen=True)
class LiveCDBootArchiveConfigure(_BootArchiveConfigure):
    """Configure the boot archive of a live medium with a desktop: the user jack is logged in and may use
    sudo."""

    image_type: Annotated[str, MARKER] = ".livecd"
    """The file in the root of the live system that tells its services what it is."""

    def _marker(self) -> str:
        return self.image_type

    def _finish(self, context: Context) -> None:
        image, archive = context.pkg_image, context.boot_archive
        if save_copy(image, _GDM, archive):
            # Without its own, the archive gets a link to the image's.
            entry(archive, _GDM).unlink()
            _insert_after(image, _GDM, "[daemon]", _AUTOMATIC_LOGIN)
        else:
            context.warn(f"the boot archive has no {_GDM}: nobody is logged in automatically")
        if save_copy(image, _SUDOERS, archive):
            with resolve(archive, _SUDOERS).open("a") as file:
                file.write(f"{_LIVE_USER} ALL=(ALL) ALL\n")
        else:
            context.warn(f"the boot archive has no {_SUDOERS}: {_LIVE_USER} cannot use sudo")


@dataclass(frozen=True)
class AIBootArchiveConfigure(_BootArchiveConfigure):
    """Configure the boot archive of a medium with the automated installer."""

    image_type: Annotated[str, MARKER] = ".autoinstall"
    """The file in the root of the live system that tells its services what it is."""

    def _marker(self) -> str:
        return self.image_type


def volume_set_id(name: str, epoch: int) -> str:
    """The text that tells the medium from others: the name of the distribution and the build's time."""
    return f"{name}-{datetime.fromtimestamp(epoch, UTC):%Y-%m-%dT%H:%M:%S}"


def _configure_system(context: Context, marker: str) -> None:
    archive = context.boot_archive
    if is_illumos():
        context.run(["devfsadm", "-r", archive])
        entry(archive, _LOCK).unlink(missing_ok=True)
    write(archive, "reconfigure", "")
    write(archive, "etc/rtc_config", "zone_info=GMT\nzone_lag=0\n")
    make_directory(archive, "tmp").chmod(0o1777)
    for directory in _DIRECTORIES:
        make_directory(archive, directory)
    for link, target in _LINKS.items():
        _link(archive, link, target)
    identity = volume_set_id(distro(context.doc).name, source_date_epoch(context, 0))
    write(archive, ".volsetid", identity, mode=0o444)
    write(archive, marker, "")
    write(archive, "etc/dumpadm.conf", "")
    repository = regular_file(context.pkg_image, REPOSITORY)
    if repository is None:
        context.warn(f"the image has no /{REPOSITORY}, so the boot archive has none")
    else:
        shutil.copy2(repository, new_file(archive, REPOSITORY))


def _link(archive: Path, name: str, target: str) -> None:
    link = entry(archive, name)
    if link.is_symlink():
        return
    if link.is_dir() and not any(link.iterdir()):
        link.rmdir()
    elif os.path.lexists(link):
        raise CheckpointError(
            f"/{name} of the boot archive is a directory with files",
            f"the live system needs a link there, to {target}",
            f"leave {name} out of the entries that are copied into the boot archive",
        )
    link.symlink_to(target)


def link_the_rest(image: Path, archive: Path) -> int:
    """Make the directories and links that the image has below /etc and /var, as they are there, and a link
    to `MISC` for each regular file that the archive does not have. Returns the number of the latter."""
    made = 0
    for top in _PARTIAL:
        _make_like(image / top, archive / top)
        if not _is_directory(image / top) or not _is_directory(archive / top):
            continue
        for where, directories, names in os.walk(image / top):
            below = Path(where).relative_to(image)
            for name in sorted((*directories, *names)):
                origin, place = image / below / name, archive / below / name
                if name == _LEFT_LOCK or os.path.lexists(place):
                    continue
                if origin.is_symlink():
                    place.symlink_to(origin.readlink())
                elif origin.is_dir():
                    _make_like(origin, place)
                elif origin.is_file():
                    place.symlink_to(f"{MISC}/{below / name}")
                    made += 1
            directories[:] = [each for each in directories if _is_directory(archive / below / each)]
    return made


def _is_directory(path: Path) -> bool:
    """Whether it is a directory itself: a link could lead out of the workspace."""
    return path.is_dir() and not path.is_symlink()


def _make_like(pattern: Path, directory: Path) -> None:
    """Make a directory with the mode, the owner and the times of another, unless there is something."""
    if os.path.lexists(directory) or not _is_directory(pattern):
        return
    directory.mkdir()
    status = pattern.stat()
    if may_set_owners():
        os.chown(directory, status.st_uid, status.st_gid)
    shutil.copystat(pattern, directory)


def _insert_after(image: Path, path: str, line: str, text: str) -> None:
    """Insert text after each line of a file of the image that begins with `line`."""
    file = regular_file(image, path)
    if file is None:
        return
    lines = file.read_text("utf-8", "surrogateescape").splitlines(keepends=True)
    content = "".join(each + (text if each.startswith(line) else "") for each in lines)
    file.write_text(content, "utf-8", "surrogateescape")
