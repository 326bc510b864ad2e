"""The scripts of a netboot kit: for iPXE, and for GRUB's network images.

Both load kernel and initramfs from where they themselves came from, by any protocol. The live file system
comes from there too, unless the variable `base_url` names another place: a script that starts these may set
it. Titles and arguments are the same as in the menu of media. Pure.
Source: ipxe.org/scripting and ipxe.org/cfg; iPXE, src/core/exec.c; the GRUB manual, "Network"; live-boot(7).
"""

from dcd.checkpoints.boot.menu import MEDIA_SERIAL, Menu, grub_arguments, grub_word, serial_lines
from statemachine.errors import CheckpointError

KERNEL, INITRAMFS, SQUASHFS = "vmlinuz", "initrd.img", "filesystem.squashfs"
"""The names of the files. live-boot knows the file system by the end of its name."""

APPENDED = "/medium"
"""The directory of the initramfs that is the live medium when the file system is appended."""

_IPXE_ENDS = ("||", "&&", ";")
"""Words that end a command of iPXE. One that begins with # is a comment."""


def ipxe_script(menu: Menu, base_url: str | None, fetched: bool) -> str:
    """The script for iPXE. Raises CheckpointError for a text that iPXE would change."""
    lines = ["#!ipxe"]
    live = [f"live-media={APPENDED}"]
    if fetched:
        # cwduri is the directory of the script, since 2024; before, the root of the DHCP's server.
        places = (base_url,) if base_url else ("${cwduri}", "tftp://${next-server}/")
        lines += [f"isset ${{base_url}} || set base_url {place}" for place in places]
        live = [f"fetch=${{base_url}}{SQUASHFS}", "BOOTIF=01-${netX/mac:hexhyp}"]
    if len(menu.entries) > 1 and menu.timeout_seconds:
        lines += [f"menu {_ipxe_line(menu.title)}"]
        lines += [
            f"item entry{number} {_ipxe_line(entry.title)}"
            for number, entry in enumerate(menu.entries)
        ]
        timeout = f"--timeout {menu.timeout_seconds * 1000}"
        chosen = f"choose --default entry{menu.default} {timeout} chosen || goto failed"
        lines += [chosen, "goto ${chosen}"]
    else:
        lines += [f"goto entry{menu.default}"]
    for number, entry in enumerate(menu.entries):
        # With UEFI the kernel asks iPXE for the initramfs by its name.
        arguments = _ipxe_line(" ".join(map(_for_kernel, entry.arguments)))
        words = [f"initrd={INITRAMFS}", arguments, *live]
        lines += [
            "",
            f":entry{number}",
            f"kernel {KERNEL} {' '.join(filter(None, words))} || goto failed",
            f"initrd {INITRAMFS} || goto failed",
            "boot || goto failed",
        ]
    lines += ["", ":failed", "echo The network boot has failed", "sleep 10", "exit 1"]
    return "\n".join(lines) + "\n"


def grub_network_cfg(menu: Menu, base_url: str | None, fetched: bool) -> str:
    """The grub.cfg beside GRUB's network images."""
    lines = [f"set default={menu.default}", f"set timeout={menu.timeout_seconds}", ""]
    lines += serial_lines(MEDIA_SERIAL)
    live = f"live-media={APPENDED}"
    if fetched:
        live = f'"fetch=${{base_url}}{SQUASHFS}" "BOOTIF=01-${{net_default_mac}}"'
        if base_url is None:
            place = [
                # (http,192.0.2.1:8080)/kit is http://192.0.2.1:8080/kit/.
                "regexp --set=1:protocol --set=2:server --set=3:path "
                "'^\\(([a-z]+),([^)]+)\\)(.*)$' \"$prefix\"",
                'set base_url="$protocol://$server$path/"',
            ]
        else:
            place = [f"set base_url={grub_word(base_url)}"]
        lines += ["", 'if [ -z "$base_url" ]; then', *(f"    {line}" for line in place), "fi"]
    for entry in menu.entries:
        arguments = [grub_arguments(entry.arguments)] if entry.arguments else []
        lines += [
            "",
            f"menuentry {grub_word(entry.title)} {{",
            f'    linux "$prefix/{KERNEL}" {" ".join([*arguments, live])}',
            f'    initrd "$prefix/{INITRAMFS}"',
            "}",
        ]
    return "\n".join(lines) + "\n"


def _ipxe_line(text: str) -> str:
    """Text as the rest of a command of iPXE, which has no quotes. Raises CheckpointError for a text that
    iPXE would change."""
    parts = text.split(" ")
    odd = [part for part in parts if part in _IPXE_ENDS or part.startswith("#") or "${" in part]
    if odd or (text and "" in parts):
        raise CheckpointError(
            f"{text[:100]!r} cannot be in a script of iPXE",
            f"iPXE reads {odd[0]!r} as its own" if odd else "iPXE makes one blank of two",
            "change the title or the arguments in the manifest",
        )
    return text


def _for_kernel(argument: str) -> str:
    """An argument as GRUB writes it, too. Source: Linux, lib/cmdline.c, next_arg."""
    return f'"{argument}"' if " " in argument else argument
