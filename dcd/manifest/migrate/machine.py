"""The original's VM constructor: six scripts that drove VirtualBox, and the checkpoints in their place.

What the scripts were told is in `vm_im`, in the target, or in a checkpoint's arguments; VirtualBox is not
asked any more. Where the original let VirtualBox choose (controller, network adapter), what its OpenSolaris
guests had is written out. Pure.
"""

from pathlib import PurePosixPath

from dcd.manifest.data_object import Element
from dcd.manifest.migrate.elements import Arguments, add
from dcd.manifest.migrate.reader import Reader
from dcd.manifest.migrate.scripts import Script

_EXPORTS = {"export_esx": ("esx", "vmdk"), "export_ovf": ("ovf", "ova")}
"""What the exporting scripts had to be told, and the format that they made."""

_SYSTEMS = {"opensolaris": "OpenSolaris_64", "opensolaris_64": "OpenSolaris_64"}
_ORIGINAL_MANIFEST = "default"


def virtual_machine(reader: Reader, distro: Element, scripts: list[Script]) -> None:
    """The virtual machine and its disk."""
    disk, memory, system = _arguments(scripts, "create_vm", 3)
    memory_after, cpus, virtualization = _arguments(scripts, "post_install_vm_config", 3)
    vm = add(
        add(add(distro, "distro_spec"), "img_params"),
        "vm_im",
        memory=f"{memory_after or memory}mb" if memory_after or memory else None,
        cpus=cpus,
        firmware="bios",
        os_type=_SYSTEMS.get(system, system) if system else None,
    )
    for script in scripts:
        if script.role in ("vm-convert", "vm-ova") and script.main:
            word, format_ = _EXPORTS[_stem(script)]
            add(vm, "vm_format", type=format_)
            if script.arguments[:1] not in ((), (word,)):
                reader.note(
                    script.element, f"{script.arguments[0]!r}: {script.name} makes {format_}"
                )
    add(vm, "vm_controller", type="sata")
    add(vm, "vm_network", model="e1000")
    if disk:
        image = add(add(distro, "target"), "disk")
        add(image, "disk_image", name=f"{distro.get('name')}.raw", size=f"{disk}mb")
    _remarks(reader, scripts, system, virtualization)


def installation(reader: Reader, scripts: list[Script]) -> Arguments:
    """The arguments of the checkpoint that installs."""
    medium, answers = _arguments(scripts, "prepare_ai_image", 2)
    _, memory, _ = _arguments(scripts, "create_vm", 3)
    if answers and answers != _ORIGINAL_MANIFEST:
        reader.note(
            _script(scripts, "prepare_ai_image").element,
            f"the manifest {answers} of the automated installer",
            "make installer media that have it",
        )
    return {"medium": medium, "memory_mb": memory}


def _remarks(
    reader: Reader, scripts: list[Script], system: str | None, virtualization: str | None
) -> None:
    if system == "opensolaris":
        reader.note(
            _script(scripts, "create_vm").element,
            "the machine had 32 bits; it has 64 now",
            "systems of 32 bits run in it too",
        )
    if virtualization:
        reader.note(
            _script(scripts, "post_install_vm_config").element,
            f"VT-x/AMD-V was to be {virtualization}; whether it is used is found out wherever a guest runs",
        )
    for script in scripts:
        if script.role == "vm-install" and script.main:
            reader.note(
                script.element,
                f"{script.name} follows its guest by what the installer of dcd says on the serial console, "
                "which an automated installer (AI) does not",
                "use media with DebianInstaller, or a checkpoint of your own in its place",
            )


def _arguments(scripts: list[Script], stem: str, count: int) -> tuple[str | None, ...]:
    """The arguments of one of the scripts, as many as it had; None for what is not given."""
    found = [script for script in scripts if script.role and _stem(script) == stem]
    given = found[0].arguments if found else ()
    return (*given, *[None] * count)[:count]


def _script(scripts: list[Script], stem: str) -> Script:
    return next(script for script in scripts if script.role and _stem(script) == stem)


def _stem(script: Script) -> str:
    return PurePosixPath(script.path).name.removesuffix(".py")
