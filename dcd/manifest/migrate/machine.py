"""The original's VM constructor: six scripts that controlled VirtualBox, and their replacements.

The scripts' arguments become parts of `vm_im`, of the target, or arguments of checkpoints. For the choices
that the original left to VirtualBox (controller, network adapter), the result has those of its OpenSolaris
guests. Pure.
"""

from dcd.manifest.data_object import Element
from dcd.manifest.migrate.elements import Arguments, add
from dcd.manifest.migrate.reader import Reader
from dcd.manifest.migrate.scripts import Script, stem_of

_EXPORTS = {"export_esx": ("esx", "vmdk"), "export_ovf": ("ovf", "ova")}
"""The argument of the exporting scripts, and their format."""

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
            word, format_ = _EXPORTS[stem_of(script.path)]
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
            "make installer media with it",
        )
    return {"medium": medium, "memory_mb": memory}


def _remarks(
    reader: Reader, scripts: list[Script], system: str | None, virtualization: str | None
) -> None:
    if system == "opensolaris":
        reader.note(
            _script(scripts, "create_vm").element,
            "the machine had 32 bits; it now has 64",
            "systems of 32 bits run in it too",
        )
    if virtualization:
        reader.note(
            _script(scripts, "post_install_vm_config").element,
            f"VT-x/AMD-V was {virtualization}; dcd uses it for a guest where the host has it",
        )
    for script in scripts:
        if script.role == "vm-install" and script.main:
            reader.note(
                script.element,
                f"{script.name} reads the messages of dcd's installer on the serial console; an automated "
                "installer (AI) sends none",
                "use media with DebianInstaller, or replace it by your own checkpoint",
            )


def _arguments(scripts: list[Script], stem: str, count: int) -> tuple[str | None, ...]:
    """The `count` arguments of a script; None for a missing one."""
    found = [script for script in scripts if script.role and stem_of(script.path) == stem]
    given = found[0].arguments if found else ()
    return (*given, *[None] * count)[:count]


def _script(scripts: list[Script], stem: str) -> Script:
    return next(script for script in scripts if script.role and stem_of(script.path) == stem)
