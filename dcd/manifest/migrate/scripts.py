"""Finalizer scripts of old manifests, and the checkpoints that replaced them.

The redesign combined several scripts in one checkpoint, which keeps the name of the main script; the others
are reported as parts of it. A script that is not the original's own becomes a `CustomScript` that calls it as
the original did: with five standard arguments, then its own. Pure.
"""

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from dcd.manifest.data_object import Element
from dcd.manifest.forms import CHECKPOINT_NAME
from dcd.manifest.migrate.reader import Reader
from dcd.manifest.values import BadValue

OURS = "/usr/share/distro_const/"
"""The directory of the original's own scripts."""

_CHECKPOINTS = "solaris_install/distro_const/checkpoints"
_VM = "dcd/checkpoints/vm"

ROLES = {
    "transfer": ("solaris_install/transfer/ips", "TransferIPS"),
    "configure": (f"{_CHECKPOINTS}/pre_pkg_img_mod", "{kind}PrePkgImgMod"),
    "archive-init": ("solaris_install/transfer/cpio", "TransferCPIO"),
    "archive-configure": (f"{_CHECKPOINTS}/boot_archive_configure", "{kind}BootArchiveConfigure"),
    "archive": (f"{_CHECKPOINTS}/boot_archive_archive", "BootArchiveArchive"),
    "menu": ("solaris_install/boot/boot", "{kind}ISOImageBootMenu"),
    "compress": (f"{_CHECKPOINTS}/pkg_img_mod", "{kind}PkgImgMod"),
    "iso": (f"{_CHECKPOINTS}/create_iso", "CreateISO"),
    "usb": (f"{_CHECKPOINTS}/create_usb", "CreateUSB"),
    "vm-disk": (f"{_VM}/create_disk", "CreateDisk"),
    "vm-install": (f"{_VM}/install_iscsi", "InstallISCSI"),
    "vm-relabel": (f"{_VM}/relabel", "Relabel"),
    "vm-convert": (f"{_VM}/convert", "Convert"),
    "vm-ova": (f"{_VM}/ova", "CreateOVA"),
}
"""The constructor of the checkpoint for each role."""

_MAIN = {
    "im_pop": "transfer",
    "pre_boot_archive_pkg_image_mod": "configure",
    "boot_archive_initialize": "archive-init",
    "boot_archive_configure": "archive-configure",
    "boot_archive_archive": "archive",
    "grub_setup": "menu",
    "loader_setup": "menu",
    "post_boot_archive_pkg_image_mod": "compress",
    "create_iso": "iso",
    "create_usb": "usb",
    "create_vm": "vm-disk",
    "install_vm": "vm-install",
    "post_install_vm_config": "vm-relabel",
    "export_esx": "vm-convert",
    "export_ovf": "vm-ova",
}
_PARTS = {
    "boot_archive_archive_32": "archive",
    "gen_cd_content": "compress",
    "post_boot_archive_pkg_image_mod_custom": "compress",
    "plat_setup": "archive",
    "prepare_ai_image": "vm-install",
}
_PREFIX = re.compile(r"(slimcd|tm|ai)_(?P<of>.*)")
"""Scripts for one kind of image, each a variant of another script."""

_KINDS = (
    ("LiveCD", re.compile(r"slim_?cd|^\.?livecd$")),
    ("AI", re.compile(r"(^|/)(ai_|auto_?install/)|^\.?(autoinstall|auto-install|ai)$")),
    ("Text", re.compile(r"text_install/|(^|/)tm_|^\.?text-?install$")),
)
_KNOWN_ARGUMENTS = re.compile(
    r"\.?(livecd|text-?install|auto-?install|ai)|amd64|x86|sparc|usr_zlib_compression=\w+"
)
_TAKES = {
    "prepare_ai_image": 2,
    "create_vm": 3,
    "install_vm": 0,
    "post_install_vm_config": 3,
    "export_esx": 1,
    "export_ovf": 1,
}
"""The number of arguments of the scripts of the VM constructor, which are positional."""

_QUOTED = re.compile(r'"([^"]*)"|(\S+)')


@dataclass(frozen=True, slots=True)
class Script:
    """A finalizer script: its checkpoint's name and message, its path, its own arguments, and its role
    (None: it is not one of the original's). `main`: its checkpoint keeps this one's name."""

    element: Element
    name: str
    message: str
    path: str
    arguments: tuple[str, ...]
    role: str | None
    main: bool = False


def scripts_of(reader: Reader) -> list[Script]:
    """All finalizer scripts, in order, with unique names."""
    found: list[Script] = []
    names: dict[str, int] = {}
    for element in reader.each("distro_constr_params/output_image/finalizer/script"):
        path = reader.attribute_of(element, "name") or ""
        checkpoint = element.find("checkpoint")
        name, message = "", ""
        if checkpoint is not None:
            name = reader.attribute_of(checkpoint, "name") or ""
            message = reader.attribute_of(checkpoint, "message") or ""
        arguments = element.find("argslist")
        words = "" if arguments is None else reader.text_of(arguments)
        found.append(
            Script(
                element,
                _unique(reader, element, name or stem_of(path), names),
                message,
                path,
                tuple(quoted or bare for quoted, bare in _QUOTED.findall(words)),
                _role(path),
            )
        )
    chiefs: dict[str, Script] = {}
    for script in found:
        chief = chiefs.get(script.role or "")
        if script.role and (chief is None or (_is_main(script) and not _is_main(chief))):
            chiefs[script.role] = script
    return [replace(script, main=chiefs.get(script.role or "") is script) for script in found]


def kind_of(reader: Reader, scripts: list[Script]) -> str:
    """The kind of image that the scripts make, as in the names of classes."""
    words = [word for script in scripts for word in (script.path, *script.arguments)]
    for kind, pattern in _KINDS:
        if any(pattern.search(word) for word in words):
            return kind
    if any(
        script.role in ("configure", "archive-configure", "menu", "compress") for script in scripts
    ):
        reader.note(
            None,
            "the scripts do not show the kind of image; Text is assumed",
            "for another kind, replace Text in the names of classes by LiveCD or AI",
        )
    return "Text"


def command(script: Script) -> str:
    """The shell line that calls a script as the original did. Its first argument was a socket for queries of
    values of the manifest, which does not exist any more."""
    standard = "'' {PKG_IMAGE_PATH} {TMP_DIR} {BOOT_ARCHIVE} {MEDIA_DIR}"
    own = [shlex.quote(argument) for argument in script.arguments]
    return " ".join([shlex.quote(script.path), standard, *own])


def unknown_arguments(script: Script) -> list[str]:
    """The arguments of a script of the original that its replacement does not have."""
    stem = stem_of(script.path)
    if stem in _TAKES:
        return list(script.arguments[_TAKES[stem] :])
    return [each for each in script.arguments if not _KNOWN_ARGUMENTS.fullmatch(each)]


def _role(path: str) -> str | None:
    if not path.startswith(OURS):
        return None
    stem = stem_of(path)
    special = _PREFIX.fullmatch(stem)
    return _MAIN.get(stem) or _PARTS.get(stem) or (_MAIN.get(special["of"]) if special else None)


def stem_of(path: str) -> str:
    """The name of a script without its directory and `.py`."""
    return PurePosixPath(path).name.removesuffix(".py")


def _is_main(script: Script) -> bool:
    return stem_of(script.path) in _MAIN


def _unique(reader: Reader, element: Element, name: str, taken: dict[str, int]) -> str:
    """The name, or a similar one that is valid and not `taken`; reports a difference."""
    fitting = name
    try:
        CHECKPOINT_NAME.check(name)
    except BadValue:
        fitting = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "script"
    candidate = fitting
    while candidate in taken:
        taken[fitting] += 1
        candidate = f"{fitting}-{taken[fitting]}"
    taken[candidate] = 1
    if candidate != name:
        reader.note(element, f"the checkpoint {name!r} is now named {candidate!r}")
    return candidate
