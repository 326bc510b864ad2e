"""The architecture of the packages of a transfer: the image's, else the manifest's, else this host's."""

from pathlib import Path

from dcd.manifest.objects.software import Image, Software
from dcd.platform import foreign
from dcd.platform.host_parts import SUFFIX
from dcd.platform.inside import read
from statemachine.errors import CheckpointError, Unprepared
from store.host.process import run


def changes(software: Software) -> bool:
    """Whether the packages go into an existing system."""
    image = software.get_descendants(class_type=Image)
    return bool(image and image[0].action == "use_existing")


def architecture_in(software: Software) -> str | None:
    image = software.get_descendants(class_type=Image)
    return image[0].architecture if image else None


def default_architecture(software: Software) -> dict[str, str]:
    if architecture_in(software) or changes(software):
        return {}
    return {f"architecture{SUFFIX}": host_architecture()}


def check_architecture(architecture: str) -> None:
    if hindrance := foreign.obstacle(architecture):
        raise Unprepared(
            f"this host cannot make an image for {architecture}", hindrance[0], hindrance[1]
        )


def architecture_of(root: Path, software: Software) -> str:
    wanted = architecture_in(software)
    there = (read(root, "var/lib/dpkg/arch") or "").split("\n")[0].strip()
    if changes(software) and there:
        if wanted not in (None, there):
            raise CheckpointError(
                f"the system in the image is of {there}, not {wanted}",
                "",
                "leave out architecture where the image is changed",
            )
        return there
    return wanted or host_architecture()


def host_architecture() -> str:
    command = ["dpkg", "--print-architecture"]
    return run(command, capture=True, timeout_seconds=60).stdout.strip()
