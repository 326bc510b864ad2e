"""Settings of apt, dpkg and debconf that a manifest gives for a transfer of Debian packages.

They apply from the first package on: pins when apt chooses, options of dpkg when the first package is
unpacked, and answers as soon as the image has debconf. Pins and options of dpkg stay in the image, so that
later transfers and upgrades follow them. Source: apt_preferences(5), dpkg.cfg(5), debconf-set-selections(1).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.objects.software import Debconf, DpkgOption, Pin, Software
from dcd.platform.inside import exists, read, write

_PINS = "etc/apt/preferences.d/dcd"
_DPKG_OPTIONS = "etc/dpkg/dpkg.cfg.d/dcd"


@dataclass(frozen=True, slots=True)
class Settings:
    """Preferences of apt, options of dpkg, and answers for debconf, as texts of their programs."""

    pins: str = ""
    dpkg_options: tuple[str, ...] = ()
    answers: str = ""


def settings_of(software: Software, root: Path) -> Settings:
    """The settings of a transfer into the image at `root`, with the pins that an earlier one left there."""
    pins = [
        f"Package: {pin.package}\nPin: {pin.pin}\nPin-Priority: {pin.priority}\n"
        for pin in software.get_children(class_type=Pin)
    ]
    earlier = (read(root, _PINS) or "").split("\n\n")
    stanzas = [stanza.strip() for stanza in (*earlier, *pins) if stanza.strip()]
    return Settings(
        "\n\n".join(dict.fromkeys(stanzas)) + ("\n" if stanzas else ""),
        tuple(each.option for each in software.get_children(class_type=DpkgOption)),
        "".join(f"{each.text}\n" for each in software.get_children(class_type=Debconf)),
    )


def check_settings(software: Software) -> Iterator[Diagnostic]:
    """Errors for answers without a line."""
    for answers in software.get_children(class_type=Debconf):
        if not answers.text:
            yield error(
                answers.origin,
                "there are no answers in this <debconf>",
                "",
                "<debconf>tzdata tzdata/Areas select Europe</debconf>",
            )


def leave_pins(root: Path, settings: Settings) -> None:
    """Give the pins to the image's own apt."""
    if settings.pins and exists(root, "usr/bin/apt-get"):
        write(root, _PINS, settings.pins)


def leave_dpkg_options(root: Path, settings: Settings) -> None:
    """Give the options to the dpkg of an existing system, which then uses them."""
    present = (read(root, _DPKG_OPTIONS) or "").splitlines()
    lines = dict.fromkeys([*present, *settings.dpkg_options])
    if len(lines) > len(present):
        write(root, _DPKG_OPTIONS, "".join(f"{line}\n" for line in lines))
