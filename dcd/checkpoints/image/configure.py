"""`DebianPrePkgImgMod`: configures the image area as the manifest describes.

It sets host name, locale, time zone, users, network, console and services, and adds files. At the end it
removes the identity of the machine and the package lists. Files are written beneath the image area, in spite
of links in it, and programs run inside it.
"""

import difflib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from dcd.checkpoints import architecture, products
from dcd.checkpoints.architecture import serial_line
from dcd.checkpoints.areas import captured_file
from dcd.checkpoints.image.accounts import apply_users, check_user, owner_ids
from dcd.checkpoints.image.additions import add_units, check_additions, run_scripts
from dcd.checkpoints.image.identity import remove_identity
from dcd.checkpoints.image.logins import apply_logins, check_logins
from dcd.checkpoints.image.network import apply_network
from dcd.checkpoints.image.trees import add_tree
from dcd.checkpoints.interface import MOUNTS, Checkpoint, Context, Needs, Report, Variance
from dcd.checkpoints.times import FIRST_FAT_TIME, source_date_epoch
from dcd.manifest.diagnostics import Diagnostic, error, warning
from dcd.manifest.doc import DataObjectCache, configurations_for
from dcd.manifest.forms import HOST_NAME, LOCALE, SERIAL_LINE, TIME_ZONE, UNIT
from dcd.manifest.inputs import is_in_image
from dcd.manifest.objects.configuration import (
    Configuration,
    Interface,
    Password,
    Script,
    Tree,
    User,
)
from dcd.manifest.secrets import references
from dcd.platform.chroot import Inside, chroot
from dcd.platform.inside import entry, exists, read, resolve, write
from dcd.platform.regions import unknown_locale, unknown_time_zone
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed

_IMAGE = "{PKG_IMAGE_PATH}"
_FOR_NEW_ACCOUNTS = ("/etc/skel", "/etc/login.defs", "/etc/default/useradd")
"""The sources of useradd(8) for new accounts."""
_HOSTS = """
::1\t\tlocalhost ip6-localhost ip6-loopback
ff02::1\t\tip6-allnodes
ff02::2\t\tip6-allrouters
"""
_BUILT_IN_LOCALES = ("C", "POSIX", "C.UTF-8")


@dataclass(frozen=True)
class DebianPrePkgImgMod(Checkpoint):
    """Configure a Debian image.

    The `configuration`s of the checkpoint's name hold users with their ssh keys, network interfaces, files
    (source, dest, mode, owner), directories (`tree`), units of systemd and scripts. They are applied in
    this order, whatever their order in the manifest; units are enabled last.
    """

    DESCRIPTION = "Configure the image: name, users, network, services, files"
    EXPECTED_SECONDS = 3.0
    REQUIRES = (products.IMAGE,)
    PROVIDES = ()
    VERSION = 3
    NAMED = ("configuration",)
    READS = architecture.READS
    TOOLS = ("chroot",)

    hostname: Annotated[str, HOST_NAME] | None = None
    """The name of the system."""

    locale: Annotated[str, LOCALE] | None = None
    """The locale of the system, its LANG. Default: that of an earlier checkpoint or a package, else
    C.UTF-8."""

    timezone: Annotated[str, TIME_ZONE] | None = None
    """The time zone of the system, as in /usr/share/zoneinfo. Default: that of an earlier checkpoint or a
    package, else Etc/UTC."""

    serial_console: Annotated[str, SERIAL_LINE] | None = None
    """A serial line that gets a login prompt: `ttyS0`, or `auto` for the first one of the machine."""

    enable_services: tuple[Annotated[str, UNIT], ...] = ()
    """Units to enable; `ssh` means `ssh.service`."""

    disable_services: tuple[Annotated[str, UNIT], ...] = ()
    """Units to disable."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(
            tools=self.TOOLS,
            disk_bytes=64 << 20,
            capabilities=MOUNTS,
            secrets=references(
                password
                for configuration in configurations_for(doc, self.name)
                for password in configuration.get_descendants(class_type=Password)
            ),
        )

    def variances(self, doc: DataObjectCache) -> Iterator[Variance]:
        if any(each.get_children(class_type=Script) for each in configurations_for(doc, self.name)):
            yield Variance("a script may read the clock or random numbers", certain=False)

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        disabled = set(map(_unit, self.disable_services))
        for item, service in enumerate(self.enable_services):
            if _unit(service) in disabled:
                yield self.fault(
                    doc,
                    "enable_services",
                    f"{_unit(service)} is both enabled and disabled",
                    "",
                    "name it in one of the two lists",
                    item,
                )
        yield from self._check_region(doc)
        for configuration in configurations_for(doc, self.name):
            yield from _check_configuration(configuration)
            yield from check_logins(doc, configuration)
            yield from check_additions(configuration)

    def _check_region(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        """Warnings for names that this host does not know: the image, which decides, hardly knows them."""
        for argument, kind, name, unknown, package in (
            ("timezone", "time zone", self.timezone, unknown_time_zone, "tzdata"),
            ("locale", "locale", self.locale, unknown_locale, "locales"),
        ):
            found = None if name is None else unknown(name)
            if found is not None:
                yield warning(
                    self.argument_place(doc, argument),
                    f"{self.name}: this host knows no {kind} {name!r}"
                    + (f"; did you mean {found.meant!r}?" if found.meant else ""),
                    f"The package {package} in the image decides. If it does not know it either, the "
                    "checkpoint fails.",
                    f'<arg name="{argument}">{found.meant}</arg>' if found.meant else "",
                )

    def execute(self, context: Context) -> None:
        configurations = configurations_for(context.doc, self.name)
        users = [user for one in configurations for user in one.get_children(class_type=User)]
        interfaces = [i for one in configurations for i in one.get_children(class_type=Interface)]
        files: list[Configuration | Tree] = [
            *(one for one in configurations if one.source is not None),
            *(tree for one in configurations for tree in one.get_children(class_type=Tree)),
        ]
        root = context.pkg_image
        context.report(Report(0.0, "configuring the image"))
        with chroot(root, context.environment) as inside:
            self._name_the_system(root)
            self._set_locale(inside)
            self._set_timezone(root)
            first = [one for one in files if _is_for_new_accounts(one)]
            for added in first:
                _add(context, added)
            apply_users(inside, users, source_date_epoch(context, FIRST_FAT_TIME))
            for added in files:
                if not any(added is one for one in first):
                    _add(context, added)
            # A file or directory may bring authorized_keys, to which others are added.
            apply_logins(root, users, context.inputs)
            services = [*apply_network(root, interfaces), *map(_unit, self.enable_services)]
            units = add_units(context, configurations)
            run_scripts(inside, context, configurations)
            services += units.enabled
            if self.serial_console is not None:
                services.append(_log_in_on(root, serial_line(context.doc, self.serial_console)))
            _switch_services(inside, "enable", services)
            disabled = [*map(_unit, self.disable_services), *units.disabled]
            _switch_services(inside, "disable", disabled)
        _make_generic(root)

    def _name_the_system(self, root: Path) -> None:
        if self.hostname is None and exists(root, "etc/hosts"):
            return  # The image or an earlier checkpoint has set it.
        lines = ["127.0.0.1\tlocalhost"]
        if self.hostname is not None:
            short = self.hostname.partition(".")[0]
            names = self.hostname if short == self.hostname else f"{self.hostname} {short}"
            write(root, "etc/hostname", f"{short}\n")
            lines.append(f"127.0.1.1\t{names}")
        write(root, "etc/hosts", "\n".join(lines) + _HOSTS)

    def _set_locale(self, inside: Inside) -> None:
        present = read(inside.root, "etc/default/locale") or ""
        if self.locale is None and re.search(r"^\s*(LANG|LC_\w+)=", present, re.MULTILINE):
            return
        locale = self.locale or "C.UTF-8"
        if locale not in _BUILT_IN_LOCALES:
            _generate_locale(inside, locale)
        write(inside.root, "etc/default/locale", f"LANG={locale}\n")

    def _set_timezone(self, root: Path) -> None:
        if self.timezone is None and os.path.lexists(entry(root, "etc/localtime")):
            return
        timezone = self.timezone or "Etc/UTC"
        zone = f"usr/share/zoneinfo/{timezone}"
        if not resolve(root, zone).is_file():
            if timezone in ("Etc/UTC", "UTC") and not exists(root, "usr/share/zoneinfo"):
                return  # Without tzdata everything is in UTC anyway.
            raise CheckpointError(
                f"the image does not know the time zone {timezone}",
                f"/{zone} is not in it",
                "correct the name, or add the package tzdata to the transfer",
            )
        link = entry(root, "etc/localtime")
        link.unlink(missing_ok=True)
        link.symlink_to(f"/{zone}")
        write(root, "etc/timezone", f"{timezone}\n")


def _check_configuration(configuration: Configuration) -> Iterator[Diagnostic]:
    if configuration.source is not None and configuration.dest is None:
        yield error(
            configuration.place_of("dest"),
            "a file to add needs dest, an absolute path of the image",
            "",
            f'add dest="/etc/{Path(configuration.source).name}"',
        )
    for user in configuration.get_children(class_type=User):
        yield from check_user(user)


def _unit(service: str) -> str:
    return service if "." in service else f"{service}.service"


def _log_in_on(root: Path, console: str) -> str:
    """Configure a login on a serial line, with its speed if it has one. Returns the service."""
    line, _, settings = console.partition(",")
    service = f"serial-getty@{line}.service"
    if speed := re.match(r"[0-9]+", settings):
        # Source: serial-getty@.service, agetty(8).
        command = f"-/sbin/agetty -o '-p -- \\\\u' {speed.group()} - $TERM"
        text = f"[Service]\nExecStart=\nExecStart={command}\n"
        write(root, f"etc/systemd/system/{service}.d/dcd.conf", text)
    return service


def _generate_locale(inside: Inside, locale: str) -> None:
    def plain(name: str) -> str:
        return name.lower().replace("-", "")

    installed = inside.run(["locale", "-a"], capture=True).stdout.split()
    if plain(locale) in map(plain, installed):
        return
    if not inside.has("/usr/sbin/locale-gen"):
        raise CheckpointError(
            f"the image cannot make the locale {locale}",
            "it has no locale-gen",
            'add the package locales to the transfer, or use locale "C.UTF-8"',
        )
    supported = (read(inside.root, "usr/share/i18n/SUPPORTED") or "").splitlines()
    line = next((line for line in supported if line.split()[:1] == [locale]), None)
    if line is None:
        names = [line.split()[0] for line in supported if line.strip()]
        similar = difflib.get_close_matches(locale, names, n=2)
        raise CheckpointError(
            f"there is no locale {locale}",
            "it is not in /usr/share/i18n/SUPPORTED of the image",
            f"did you mean {' or '.join(similar)}?" if similar else "",
        )
    write(inside.root, "etc/locale.gen", (read(inside.root, "etc/locale.gen") or "") + f"{line}\n")
    inside.run(["locale-gen"], timeout_seconds=600)


def _is_for_new_accounts(configuration: Configuration | Tree) -> bool:
    """Whether a file or directory to add is a source for new accounts."""
    dest = PurePosixPath(configuration.dest or "/")
    return any(dest.is_relative_to(place) for place in _FOR_NEW_ACCOUNTS)


def _add(context: Context, added: Configuration | Tree) -> None:
    if isinstance(added, Tree):
        add_tree(context, added)
    else:
        _add_file(context, added)


def _add_file(context: Context, configuration: Configuration) -> None:
    assert configuration.source is not None and configuration.dest is not None
    if is_in_image(configuration):
        source = resolve(context.pkg_image, configuration.source.removeprefix(_IMAGE))
        if not source.is_file():
            raise CheckpointError(
                f"the image has no file {configuration.source.removeprefix(_IMAGE)}",
                str(configuration.origin or ""),
                "correct the source, or add the package that has the file",
            )
    else:
        source = captured_file(context.inputs, configuration.source)
    mode = int(configuration.mode or "0644", 8)
    owner = owner_ids(context.pkg_image, configuration.owner or "0:0")
    write(context.pkg_image, configuration.dest, source.read_bytes(), mode=mode, owner=owner)


def _switch_services(inside: Inside, verb: str, units: list[str]) -> None:
    if not units:
        return
    if not inside.has("/usr/bin/systemctl"):
        raise CheckpointError(
            f"the image cannot {verb} services",
            "it has no systemctl",
            "add the package systemd-sysv to the transfer",
        )
    offline = {"SYSTEMD_OFFLINE": "1"}
    for unit in dict.fromkeys(units):
        try:
            inside.run(["systemctl", verb, unit], env=offline)
        except ToolFailed as error:
            command = ["systemctl", "list-unit-files", "--no-legend", "--no-pager"]
            listing = inside.run(command, env=offline, capture=True, ok=range(256)).stdout
            names = [line.split()[0] for line in listing.splitlines() if line.strip()]
            similar = [name for name in difflib.get_close_matches(unit, names) if name != unit]
            raise CheckpointError(
                f"the image cannot {verb} {unit}",
                error.output,
                f"did you mean {' or '.join(similar)}?"
                if similar
                else "correct the name, or add the package that has the service",
            ) from error


def _make_generic(root: Path) -> None:
    """Remove the identity of the machine, and files that only the build needed."""
    remove_identity(root)
    for archive in resolve(root, "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    lists = resolve(root, "var/lib/apt/lists")
    if lists.is_dir():
        shutil.rmtree(lists)
        (lists / "partial").mkdir(parents=True)
