"""`TextPrePkgImgMod`, `LiveCDPrePkgImgMod`, `AIPrePkgImgMod`: the image area before its boot archive is made.

They set the password of root, the accounts and the name of the system, prepare the SMF repository (`smf`),
keep files for the installed system below /save, make ZFS use less memory, and describe the image in
/.image_info. No program of the image runs; caches of a desktop, for which the original ran some in the image,
are made by its services at the first start.
Source: the original's checkpoint pre_pkg_img_mod.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.areas import captured_file
from dcd.checkpoints.illumos_host import is_illumos
from dcd.checkpoints.image.illumos.accounts import apply_user, set_root_password
from dcd.checkpoints.image.illumos.saved import move_to_save, save_copy
from dcd.checkpoints.image.illumos.smf import preload, profiles_of
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.recorded import record_values
from dcd.checkpoints.times import source_date_epoch
from dcd.manifest.diagnostics import Diagnostic, warning
from dcd.manifest.doc import DataObjectCache, configurations_for
from dcd.manifest.forms import CLIENT_PATH, HOST_NAME, LINE, PASSWORD, PASSWORD_HASH
from dcd.manifest.objects.configuration import Password, User
from dcd.manifest.secrets import references
from dcd.manifest.values import BadValue, InputPath
from dcd.platform.inside import (
    exists,
    make_directory,
    new_file,
    read,
    regular_file,
    resolve,
    write,
)
from statemachine.errors import CheckpointError

IMAGE_INFO = ".image_info"
SERVICE = "install_service"
"""The record of the installer: its version, `auto_install`, and `service_name`."""
ARCHITECTURE = "i386"
"""The original's name of x86 machines."""

_MEDIA_MANIFESTS = (
    "lib/svc/manifest/milestone/config.xml",
    "lib/svc/manifest/network/network-install.xml",
    "lib/svc/manifest/network/network-physical.xml",
)
"""Service manifests that would make a cycle of dependencies on media; the packages bring others for these."""
_LESS_MEMORY = "set zfs:zfs_arc_max=0x4002000\nset zfs:zfs_vdev_cache_size=0\n"
_GATHERED = "auto_install"
_PANEL = "etc/gconf/schemas/panel-default-setup.entries"
_DESKTOP = (
    "etc/gconf/schemas",
    "etc/xdg/autostart/updatemanagernotifier.desktop",
    "usr/share/dbus-1/services/gnome-power-manager.service",
    "usr/share/gnome/autostart/gnome-power-manager.desktop",
    "usr/share/gnome/autostart/vp-sysmon.desktop",
)
_INSTALLED = "var/pkg/state/installed/catalog.base.C"


@dataclass(frozen=True)
class _PrePkgImgMod(Checkpoint):
    """The arguments and steps that the three kinds of media share."""

    DESCRIPTION = "Configure the image before its boot archive is made"
    EXPECTED_SECONDS = 60.0
    REQUIRES = (products.IMAGE,)
    PROVIDES = ()
    NAMED = ("configuration",)
    READS = ("//distro.name",)

    root_password: Annotated[str, PASSWORD] = "solaris"  # noqa: S105 - the original's default
    """The password of root. A `configuration` with the user root can refer to a secret instead."""

    is_plaintext: bool = True
    """Whether root_password is the password itself and not its crypt(5) hash."""

    hostname: Annotated[str, HOST_NAME] | None = None
    """The name of the system."""

    smf_repository: Annotated[InputPath, CLIENT_PATH] | None = None
    """A repository of SMF (etc/svc/repository.db of a system with the same packages) to start from, for build
    hosts without svccfg. Default there: the image's own seed."""

    def needs(self, doc: DataObjectCache) -> Needs:
        imports = is_illumos() and self.smf_repository is None
        return Needs(
            tools=("svccfg",) if imports else (),
            secrets=references(_passwords(doc, self.name)),
        )

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        if not self.is_plaintext:
            try:
                PASSWORD_HASH.check(self.root_password)
            except BadValue:
                remedy = "make one with `openssl passwd -6`"
                yield self.fault(doc, "root_password", "root_password is no hash", "", remedy)
        if not is_illumos() and self.smf_repository is None:
            yield warning(
                self.argument_place(doc),
                f"{self.name} does not import the services of the image: this host has no svccfg",
                "The image starts with its own seed, imports its service manifests and applies the profiles "
                "at its first start.",
                'give a prepared repository: <arg name="smf_repository">FILE</arg>, or build on illumos',
            )

    def execute(self, context: Context) -> None:
        image, epoch = context.pkg_image, source_date_epoch(context, 0)
        configurations = configurations_for(context.doc, self.name)
        users = [u for one in configurations for u in one.get_children(class_type=User)]
        if not any(u.name == "root" and u.get_first_child(class_type=Password) for u in users):
            set_root_password(image, self.root_password, is_hash=not self.is_plaintext, epoch=epoch)
        for user in users:
            apply_user(image, user, epoch)
        if self.hostname is not None:
            write(image, "etc/nodename", f"{self.hostname}\n")
        move_to_save(context, [path for path in _MEDIA_MANIFESTS if exists(image, path)])
        context.report(Report(0.3, "preparing the SMF repository"))
        seed = None
        if self.smf_repository is not None:
            seed = captured_file(context.inputs, self.smf_repository)
        preload(context, profiles_of(context, configurations), seed)
        self._finish(context)
        context.report(Report(fraction=1.0))

    def _finish(self, context: Context) -> None:
        """What one kind of image needs besides."""


@dataclass(frozen=True)
class TextPrePkgImgMod(_PrePkgImgMod):
    """Prepare an image for media with the text installer."""

    def _finish(self, context: Context) -> None:
        _use_less_memory(context.pkg_image)
        save_copy(context.pkg_image, "etc/inet/hosts")
        _write_size(context.pkg_image)


@dataclass(frozen=True)
class LiveCDPrePkgImgMod(_PrePkgImgMod):
    """Prepare an image for live media with a desktop. Its caches (fonts, icons, gconf) are made by the
    services of the image at the first start."""

    def _finish(self, context: Context) -> None:
        image = context.pkg_image
        move_to_save(context, [path for path in _DESKTOP if exists(image, path)])
        if save_copy(image, _PANEL):
            # The panel's background follows the theme on live media.
            text = (read(image, _PANEL) or "").replace(
                "<string>image</string>", "<string>gtk</string>"
            )
            write(image, _PANEL, text.encode("utf-8", "surrogateescape"))
        _use_less_memory(image)
        save_copy(image, "etc/inet/hosts")
        _write_size(image)


@dataclass(frozen=True)
class AIPrePkgImgMod(_PrePkgImgMod):
    """Prepare an image for media with the automated installer: its files are in /auto_install, and the
    version of the installer and the name of its service are in /.image_info."""

    service_name: Annotated[str, LINE] = "solarisdev-%{arch}-%{build}"
    """The name of the install service; `%{arch}` and `%{build}` are replaced."""

    def _finish(self, context: Context) -> None:
        image = context.pkg_image
        _gather_installer(context)
        _use_less_memory(image)
        _write_size(image)
        version = read(image, "usr/share/auto_install/version") or ""
        for line in filter(None, map(str.strip, version.splitlines())):
            _append(image, IMAGE_INFO, f"{line}\n")
        branch = installed_branch(image, "auto-install")
        if branch is None:
            context.warn("the image has no package auto-install, whose version names the service")
        build = (branch or "").partition("-")[2].partition(".")[2]
        name = self.service_name.replace("%{arch}", ARCHITECTURE).replace("%{build}", build)
        _append(image, IMAGE_INFO, f"SERVICE_NAME={name}\n")
        record_values(context, SERVICE, {"auto_install": branch or "", "service_name": name})


def installed_branch(image: Path, stem: str) -> str | None:
    """The version of an installed IPS package after its component version (`5.11-0.175.1`), as pkg(7)'s
    catalog of installed packages has it."""
    try:
        catalog = json.loads(read(image, _INSTALLED) or "{}")
        for publisher, packages in catalog.items():
            if publisher.startswith("_"):
                continue
            for name, versions in packages.items():
                if (name == stem or name.endswith(f"/{stem}")) and versions:
                    return str(versions[-1]["version"]).partition(":")[0].rpartition(",")[2]
    except (ValueError, RecursionError, AttributeError, TypeError, LookupError):
        return None  # another catalog than pkg(7) writes
    return None


def _passwords(doc: DataObjectCache, name: str) -> list[Password]:
    return [
        password
        for one in configurations_for(doc, name)
        for user in one.get_children(class_type=User)
        for password in user.get_children(class_type=Password)
    ]


def _use_less_memory(image: Path) -> None:
    save_copy(image, "etc/system")
    _append(image, "etc/system", _LESS_MEMORY)


def _write_size(image: Path) -> None:
    size = sum(
        Path(where, name).lstat().st_size for where, _, names in os.walk(image) for name in names
    )
    _append(image, IMAGE_INFO, f"IMAGE_SIZE={size >> 10}\n")


def _append(image: Path, path: str, text: str) -> None:
    """Append to a file of the image, or make it."""
    file = regular_file(image, path)
    if file is None:
        write(image, path, text)
    else:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(text)


def _gather_installer(context: Context) -> None:
    """Copy the files of the automated installer, and the DTDs for its manifests, to /auto_install."""
    image = context.pkg_image
    source = resolve(image, "usr/share/auto_install")
    make_directory(image, _GATHERED)
    if not source.is_dir():
        context.warn("the image has no /usr/share/auto_install: it is no automated installer")
        return
    for where, directories, names in os.walk(source):
        below = Path(_GATHERED, Path(where).relative_to(source))
        make_directory(image, below.as_posix())
        for name in sorted([*directories, *names]):
            found = Path(where, name)
            if found.is_symlink():
                new_file(image, (below / name).as_posix()).symlink_to(found.readlink())
            elif not found.is_dir():
                _copy(found, image, (below / name).as_posix())
    for dtd in sorted(resolve(image, "usr/share/install").glob("*.dtd")):
        if not dtd.is_symlink():
            _copy(dtd, image, f"{_GATHERED}/{dtd.name}")
    bundle = regular_file(image, "usr/share/lib/xml/dtd/service_bundle.dtd.1")
    if bundle is not None:
        _copy(bundle, image, f"{_GATHERED}/{bundle.name}")


def _copy(source: Path, image: Path, path: str) -> None:
    """Copy a real file of the image, with its mode and times, to another path of it. Raises
    `CheckpointError` for a device or a pipe."""
    if not source.is_file():
        raise CheckpointError(
            f"/{source.relative_to(image)} of the image is no regular file",
            "it would be copied for the automated installer",
            "have the package or script that makes it leave it out",
        )
    shutil.copy2(source, new_file(image, path))
