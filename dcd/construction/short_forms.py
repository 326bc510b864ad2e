"""What a manifest may leave out, written out before it is checked.

`type="TransferDEB"` on a checkpoint stands for `mod_path` and `checkpoint_class`. A distribution without
`<execution>` gets the usual checkpoints where the rest of the manifest allows only one list: those of a live
ISO, of a netboot kit, of a virtual machine's disk, or of a root file system. Software and configuration
without a name belong to the only checkpoint that reads such. A second transfer of Debian packages adds to the
system of the first. What is written out has the place of what it stands for. Changes the tree; a manifest
that leaves nothing out stays.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from lxml import etree

from dcd.construction.constructors import checkpoint_modules
from dcd.manifest.data_object import Element
from dcd.manifest.diagnostics import Diagnostic, did_you_mean, error, hint, listed, warning
from dcd.manifest.forms import HOST_NAME
from dcd.manifest.source import Place, Source

_TRANSFER = "transfer-deb"
_CONFIGURE = "configure"
_SERIAL = "auto"
_READERS = {
    ("software", "DEB"): "TransferDEB",
    ("software", "IPS"): "TransferIPS",
    ("software", "CPIO"): "TransferCPIO",
    ("software", "ARCHIVE"): "TransferArchive",
    ("configuration", ""): "DebianPrePkgImgMod",
}
"""The class that reads software of a type, or a configuration."""

_AMBIGUOUS = (
    "list them: <execution>, with a <checkpoint> for each step; "
    "`dcctl init live` and `dcctl init vm` write manifests to begin with"
)


@dataclass(frozen=True, slots=True)
class Default:
    """A checkpoint of a default list: name, class, and arguments (a list's items in a tuple)."""

    name: str
    kind: str
    arguments: tuple[tuple[str, str | tuple[str, ...]], ...] = ()


_LIVE: tuple[Default, ...] = (
    Default("boot-archive", "DebianBootArchive"),
    Default("boot-menu", "GrubBootMenu"),
    # A tenth of the time of the checkpoint's own default, for a few percent of the size.
    Default("compress", "SquashfsPkgImgMod", (("compression_level", "3"),)),
    Default("create-iso", "CreateISO"),
    Default("verify-boot", "media.VerifyBoot"),
)
_NETBOOT: tuple[Default, ...] = (
    *(step for step in _LIVE if step.kind in ("DebianBootArchive", "SquashfsPkgImgMod")),
    Default("netboot-kit", "NetbootKit"),
    Default(
        "verify-boot",
        "media.VerifyBoot",
        (("media", "network"), ("firmware", ("bios", "uefi"))),
    ),
)
_DISK: tuple[Default, ...] = (
    Default("boot-archive", "DebianBootArchive"),
    Default("create-disk", "CreateDisk"),
    Default("install-offline", "InstallOffline", (("grow_root", "true"),)),
    Default("relabel", "Relabel"),
    Default("convert", "Convert"),
    Default("ova", "CreateOVA"),
    Default("verify-boot", "vm.VerifyBoot"),
)
_ROOTFS = {
    **{
        kind: (Default("archive", "RootfsArchive", (("format", kind),)),)
        for kind in ("tar", "cpio", "squashfs", "erofs")
    },
    "oci": (Default("container", "OCIImage", (("cmd", ("/bin/sh",)),)),),
    "incus": (Default("container", "IncusImage"),),
    "lxc": (Default("container", "LXCImage"),),
    "wsl": (Default("container", "WSLImage"),),
}
"""By the type of `rootfs_im`."""


def write_out(source: Source, allowed: Collection[str], choice: list[str]) -> Iterator[Diagnostic]:
    """Write out what the tree leaves out, with errors where it could mean several things. `allowed` are
    further modules of checkpoints. A chosen list of checkpoints is described in a line of `choice`."""
    if source.root.tag != "dc":
        return
    for distro in source.root.findall("distro"):
        if distro.find("execution") is None:
            yield from _default_checkpoints(source, distro, choice)
        elif (unused := distro.find(".//rootfs_im")) is not None:
            yield warning(
                source.origin(unused),
                "<rootfs_im> has no effect here",
                "It chooses the checkpoints of a manifest without <execution>.",
                "leave it out, or leave out <execution>",
            )
    yield from _types(source, allowed)
    for distro in source.root.iterfind("distro[execution]"):
        yield from _name_unnamed(source, distro)
        _add_to_the_first(source, distro)


# type="..."


def _types(source: Source, allowed: Collection[str]) -> Iterator[Diagnostic]:
    for execution in source.root.iter("execution"):
        earlier: list[str] = []
        for checkpoint in execution.iterchildren("checkpoint"):
            yield from _type(source, checkpoint, allowed, earlier)
            earlier.append(_package(_module(checkpoint)))


def _type(
    source: Source, checkpoint: Element, allowed: Collection[str], earlier: Sequence[str]
) -> Iterator[Diagnostic]:
    kind = checkpoint.get("type")
    both = [name for name in ("mod_path", "checkpoint_class") if name in checkpoint.attrib]
    if kind is None and len(both) < 2:
        yield error(
            source.origin(checkpoint),
            "<checkpoint> needs the attribute 'type', or both 'mod_path' and 'checkpoint_class'",
            "They name the class of the checkpoint; dcctl checkpoint-types lists all.",
            '<checkpoint name="transfer" type="TransferDEB"/>',
        )
    elif kind is not None and both:
        yield error(
            source.origin(checkpoint, both[0]),
            f"this checkpoint has both type and {listed(both, 'and')}",
            "type stands for mod_path and checkpoint_class.",
            f"keep {listed(both, 'and')}" if len(both) == 2 else "keep type",
        )
    elif kind is not None and "${" not in kind:
        found = _modules_of(kind.strip(), allowed)
        if len(found) > 1:
            found = _nearest(found, earlier) or found
        if len(found) == 1:
            name = kind.strip().rpartition(".")[2]
            checkpoint.attrib.pop("type")
            _set(source, checkpoint, "mod_path", found[0].replace(".", "/"), "type")
            _set(source, checkpoint, "checkpoint_class", name, "type")
        else:
            yield _unknown_type(source, checkpoint, kind.strip(), found, allowed)


def _modules_of(kind: str, allowed: Collection[str]) -> list[str]:
    """The modules with a checkpoint of that name, which may follow the name of its package and a dot."""
    package, _, name = kind.rpartition(".")
    return [
        module
        for module, classes in checkpoint_modules(allowed).items()
        if name in classes and (not package or _package(module) == package or module == package)
    ]


def _nearest(found: Sequence[str], earlier: Sequence[str]) -> list[str]:
    """The module of the package from which the nearest earlier checkpoint is."""
    for package in reversed(earlier):
        if near := [module for module in found if _package(module) == package]:
            return near
    return []


def _unknown_type(
    source: Source,
    checkpoint: Element,
    kind: str,
    found: Sequence[str],
    allowed: Collection[str],
) -> Diagnostic:
    where = source.origin(checkpoint, "type")
    if found:
        names = [f"{_package(module)}.{kind}" for module in found]
        return error(
            where,
            f"type={kind!r} can mean {listed(names)}",
            "It means the one that belongs to the checkpoints before it, and there are none.",
            f'type="{names[0]}"',
        )
    known = sorted({name for classes in checkpoint_modules(allowed).values() for name in classes})
    meant = did_you_mean(kind, known)
    return error(
        where,
        f"there is no checkpoint {kind!r}{hint(meant)}",
        f"There are {listed(known, 'and')}.",
        f'type="{meant}"' if meant else "dcctl checkpoint-types describes them",
    )


def _module(checkpoint: Element) -> str:
    return (checkpoint.get("mod_path") or "").strip().replace("/", ".").removesuffix(".py")


def _package(module: str) -> str:
    """The last part of the name of a module's package."""
    return module.rpartition(".")[0].rpartition(".")[2]


# The default checkpoints


def _default_checkpoints(
    source: Source, distro: Element, choice: list[str]
) -> Iterator[Diagnostic]:
    faults = list(_hindrances(source, distro))
    if faults:
        yield from faults
        return
    is_disk, rootfs = _wants_disk(distro), distro.find(".//rootfs_im")
    rest, what, why = _LIVE, "a live ISO", "Debian packages, and neither a disk nor a machine"
    if is_disk:
        rest, what, why = _disk(distro), "a virtual machine's disk", "a disk or a machine"
    elif rootfs is not None:
        rest, what, why = _ROOTFS[_type_of(rootfs)], "a root file system", "<rootfs_im>"
    elif distro.find('.//media_im[@type="netboot"]') is not None:
        rest, what, why = _NETBOOT, "a netboot kit", '<media_im type="netboot">'
    names = _names_of_transfers(source, distro)
    configure = next(
        (given for each in distro.findall("configuration") if (given := each.get("name"))),
        _CONFIGURE,
    )
    host = (distro.get("name") or "").lower()
    arguments: list[tuple[str, str | tuple[str, ...]]] = []
    if rootfs is None:
        arguments.append(("serial_console", _SERIAL))
    if re.fullmatch(HOST_NAME.pattern, host):
        arguments.insert(0, ("hostname", host))
    steps = (
        *(Default(name, "TransferDEB") for name in names),
        Default(configure, "DebianPrePkgImgMod", tuple(arguments)),
        *rest,
    )
    if rootfs is not None and distro.find("configuration") is None:
        steps = tuple(step for step in steps if step.name != configure)
    execution = _made(source, "execution", distro)
    execution.extend(made_checkpoint(source, step, distro) for step in steps)
    software = distro.findall("software")[-1]
    distro.insert(distro.index(software) + 1, execution)
    if is_disk:
        _complete_machine(source, distro)
    choice.append(
        f"no <execution>: the checkpoints of {what}, since the manifest has {why}: "
        + ", ".join(step.name for step in steps)
    )


def _hindrances(source: Source, distro: Element) -> Iterator[Diagnostic]:
    """Errors where the manifest does not decide between lists of checkpoints."""
    software = distro.findall("software")
    place, message = source.origin(distro), "<distro> needs <execution>"
    others = [each for each in software if each.get("type", "IPS").strip() != "DEB"]
    names = list(
        dict.fromkeys(
            given for each in distro.findall("configuration") if (given := each.get("name"))
        )
    )
    if not software:
        why = 'Only a manifest with <software type="DEB"> has a default list of checkpoints.'
        yield error(place, message, why, '<software type="DEB">, or <execution>')
    elif others:
        kind = others[0].get("type", "IPS").strip()
        yield error(
            source.origin(others[0], "type"),
            f"there are no default checkpoints for software of type {kind}",
            "Only Debian packages have some, so this <distro> needs <execution>.",
            f'<execution><checkpoint name="transfer" type="{_READERS.get(("software", kind), "CLASS")}"/>...',
        )
    elif distro.find(".//media_im") is not None and _wants_disk(distro):
        yield error(
            place,
            message,
            "It has both <media_im>, for a live system, and a disk or <vm_im>, for a virtual machine.",
            f"keep one of them, or {_AMBIGUOUS}",
        )
    elif distro.find(".//rootfs_im") is not None and (
        _wants_disk(distro) or distro.find(".//media_im") is not None
    ):
        yield error(
            place,
            message,
            "It has both <rootfs_im>, for a root file system, and a disk, <vm_im> or <media_im>.",
            f"keep one of them, or {_AMBIGUOUS}",
        )
    elif (found := distro.find(".//iscsi")) is not None:
        yield error(
            source.origin(found),
            "a disk that is reached through iSCSI has no default checkpoints",
            "It is installed by a guest, from a medium that the manifest describes.",
            _AMBIGUOUS,
        )
    elif len(names) > 1:
        yield error(
            place,
            message,
            f"Its configurations are for several checkpoints: {listed(names, 'and')}.",
            "leave name out of each <configuration>, or list the checkpoints in <execution>",
        )


def _disk(distro: Element) -> tuple[Default, ...]:
    """The checkpoints of a virtual machine's disk, without those that make no format of the manifest."""
    formats = {each.get("type", "").strip() for each in distro.iterfind(".//vm_im/vm_format")}
    idle = set() if "ova" in formats else {"CreateOVA"}
    if formats == {"ova"}:
        idle.add("Convert")
    return tuple(step for step in _DISK if step.kind not in idle)


def _wants_disk(distro: Element) -> bool:
    return distro.find("target") is not None or distro.find(".//vm_im") is not None


def _type_of(rootfs: Element) -> str:
    """The type of a root file system. An unknown one is an error of its own; the default goes with it."""
    kind = rootfs.get("type", "tar").strip()
    return kind if kind in _ROOTFS else "tar"


def _names_of_transfers(source: Source, distro: Element) -> list[str]:
    """The names of all software, which gets one where it has none."""
    names: list[str] = []
    for number, software in enumerate(distro.findall("software"), 1):
        if "name" not in software.attrib:
            software.set("name", _TRANSFER if number == 1 else f"{_TRANSFER}-{number}")
        names.append(software.get("name", ""))
    return names


def _complete_machine(source: Source, distro: Element) -> None:
    """Add what the manifest does not say of the machine: a format of its disk."""
    machine = distro.find(".//vm_im")
    if machine is None:
        holder = distro
        for tag in ("distro_spec", "img_params", "vm_im"):
            inner = holder.find(tag)
            if inner is None:
                inner = _made(source, tag, distro)
                holder.insert(0, inner)
            holder = inner
        machine = holder
    if machine.find("vm_format") is None:
        machine.append(_made(source, "vm_format", distro, type="qcow2"))


def made_checkpoint(source: Source, step: Default, at: Element) -> Element:
    """The element of a checkpoint, with the place of another."""
    checkpoint = _made(source, "checkpoint", at, name=step.name, type=step.kind)
    if step.arguments:
        kwargs = _made(source, "kwargs", at)
        checkpoint.append(kwargs)
        for name, value in step.arguments:
            listing = isinstance(value, tuple)
            argument = _made(source, "arglist" if listing else "arg", at, name=name)
            if isinstance(value, tuple):
                for text in value:
                    item = _made(source, "argitem", at)
                    item.text = text
                    argument.append(item)
            else:
                argument.text = value
            kwargs.append(argument)
    return checkpoint


def _made(source: Source, tag: str, at: Element, **attributes: str) -> Element:
    """A new element with the place of another."""
    element = etree.Element(tag)
    for name, value in attributes.items():
        element.set(name, value)
    if (place := source.places.get(at)) is not None:
        source.places[element] = Place(place.origin, {}, "")
    return element


def _set(source: Source, element: Element, name: str, value: str, at: str) -> None:
    """Set an attribute, with the place of another one."""
    element.set(name, value)
    place, origin = source.places.get(element), source.origin(element, at)
    if place is not None and origin is not None:
        place.attributes[name] = origin


# Names and actions that have one meaning


def _name_unnamed(source: Source, distro: Element) -> Iterator[Diagnostic]:
    """Give software and configurations without a name that of the only checkpoint that can read them."""
    checkpoints = [
        (each.get("name", ""), each.get("checkpoint_class", ""))
        for each in distro.iterfind("execution/checkpoint")
    ]
    taken = {each.get("name") for each in distro.findall("software")}
    unnamed = [each for each in distro.findall("software") if "name" not in each.attrib]
    for software in unnamed:
        kind = software.get("type", "IPS").strip()
        reader = _READERS.get(("software", kind))
        names = [name for name, made in checkpoints if made == reader and name not in taken]
        alike = [each for each in unnamed if each.get("type", "IPS").strip() == kind]
        if len(names) == len(alike) == 1:
            software.set("name", names[0])
    names = [name for name, made in checkpoints if made == _READERS["configuration", ""]]
    for configuration in distro.findall("configuration"):
        if "name" in configuration.attrib:
            continue
        if len(names) == 1:
            configuration.set("name", names[0])
            continue
        yield error(
            source.origin(configuration),
            f"this configuration has no name, and {listed(names)} could read it"
            if names
            else "no checkpoint reads this configuration",
            "A configuration is for the checkpoint of its name.",
            f'<configuration name="{names[0]}">'
            if names
            else '<checkpoint name="configure" type="DebianPrePkgImgMod"/>',
        )


def _add_to_the_first(source: Source, distro: Element) -> None:
    """Let a transfer of Debian packages without an action add to the system of an earlier one."""
    software = {each.get("name"): each for each in distro.findall("software")}
    there = False
    for checkpoint in distro.iterfind("execution/checkpoint"):
        found = software.get(checkpoint.get("name"))
        if found is None or found.get("type", "IPS").strip() != "DEB":
            continue
        image = found.find("destination/image")
        if image is None or "action" not in image.attrib:
            variant = None if image is None else image.get("variant")
            if there and variant is None:
                _image_of(source, found).set("action", "use_existing")
        there = True


def _image_of(source: Source, software: Element) -> Element:
    """The element of the package image of some software, made if it is not there."""
    holder = software
    for tag in ("destination", "image"):
        inner = holder.find(tag)
        if inner is None:
            inner = _made(source, tag, software)
            holder.insert(0, inner)
        holder = inner
    return holder
