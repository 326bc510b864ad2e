r"""The configuration of illumos' loader for a boot menu: settings in /boot/conf.d, the menu's additions in
/boot/menu.rc.local.

The loader's own menu starts the first entry. Entries with other kernel arguments are in a menu of their own,
with pages, since a menu of the loader has eight items. Lines are Forth: a text goes from `s" ` to the next
double quote, and nothing in it is special. A line has at most 255 characters.
Source: loader(7), loader.conf(5); illumos, usr/src/boot/forth (menu.rc, menu.4th, loader.conf) and
usr/src/boot/common/interp.c; menu.rc.local of OpenIndiana and of kayak.
"""

from collections.abc import Iterator, Sequence

from dcd.checkpoints.boot.illumos.entries import Entry, Menu
from statemachine.errors import CheckpointError

SETTINGS = "boot/conf.d/dcd"
ADDITIONS = "boot/menu.rc.local"

_LONGEST_LINE = 255
_FIRST_MENU = 4
"""The menus before are the loader's own: main, options, boot environments."""
_MAIN_ITEM = 7
_HARD_DISK_ITEM = 6
_PER_PAGE = 5
_BACKSPACE, _SMALL_H, _SMALL_M, _SMALL_N = 8, 104, 109, 110


def settings(menu: Menu) -> str:
    """The text of a file in /boot/conf.d."""
    lines = ["# Written by dcd from boot_mods of the manifest."]
    lines += [_setting("loader_menu_title", menu.title)]
    lines += [_setting("autoboot_delay", str(menu.timeout_seconds))]
    if arguments := menu.entries[menu.default].arguments:
        lines.append(_setting("boot-args", arguments))
    return "\n".join(lines) + "\n"


def additions(menu: Menu) -> str:
    """The text of menu.rc.local: the hard disk, and the entries of the menu on their pages."""
    lines = [
        r"\ Written by dcd from boot_mods of the manifest.",
        *_hard_disk(),
    ]
    pages = [menu.entries[at : at + _PER_PAGE] for at in range(0, len(menu.entries), _PER_PAGE)]
    lines += [
        *_item("main", _MAIN_ITEM, "[M]ore ways to boot...", f"{_FIRST_MENU} goto_menu", _SMALL_M),
    ]
    number = 0
    for at, page in enumerate(pages):
        lines += _page(at, page, number, last=at == len(pages) - 1)
        number += len(page)
    for line in lines:
        if len(line.encode()) > _LONGEST_LINE:
            raise CheckpointError(
                "an entry of the boot menu is too long for the loader",
                f"its line has more than {_LONGEST_LINE} bytes: {line[:100]}...",
                "shorten the title or the kernel_args of the boot_entry",
            )
    return "\n".join(lines) + "\n"


def _hard_disk() -> Iterator[str]:
    """The item that starts the system on the hard disk, which is disk0 after a start from CD, else disk1."""
    yield "set chain_disk=disk1"
    yield 's" currdev" getenv s" cd0:" compare 0= [if]'
    yield "set chain_disk=disk0"
    yield "[then]"
    yield from _item("main", _HARD_DISK_ITEM, "Boot from [H]ard Disk", "", _SMALL_H)
    command = f"mainmenu_command[{_HARD_DISK_ITEM}]"
    yield 's" efi-version" getenv? [if]'
    yield f'set {command}="chain ${{chain_disk}}p1:/efi/boot/bootx64.efi"'
    yield "[else]"
    yield f'set {command}="chain ${{chain_disk}}:"'
    yield "[then]"


def _page(at: int, entries: Sequence[Entry], first: int, *, last: bool) -> Iterator[str]:
    name = f"dcd{at + 1}"
    for number, entry in enumerate(entries, start=first):
        yield f": dcd-boot-{number}"
        if entry.arguments:
            yield f"{_text(entry.arguments)} {_text('boot-args')} setenv"
        else:
            yield f"{_text('boot-args')} unsetenv"
        yield f"{_text('boot')} evaluate true ;"
    yield f"{_text(name)} {_text(f'menuset_name{_FIRST_MENU + at}')} setenv"
    back = "1 goto_menu" if at == 0 else f"{_FIRST_MENU + at - 1} goto_menu"
    yield from _item(name, 1, "Back [Backspace]", back, _BACKSPACE)
    yield f"{_text('2')} {_text(f'{name}menu_options')} setenv"
    yield f"{_text('Boot:')} {_text(f'{name}menu_optionstext')} setenv"
    for item, (number, entry) in enumerate(enumerate(entries, start=first), start=2):
        yield from _item(name, item, entry.title, f"dcd-boot-{number}")
    if not last:
        following = f"{_FIRST_MENU + at + 1} goto_menu"
        yield from _item(name, len(entries) + 2, "[N]ext page...", following, _SMALL_N)


def _item(
    menu: str, item: int, caption: str, command: str, key: int | None = None
) -> Iterator[str]:
    yield f"{_text(caption)} {_text(f'{menu}menu_caption[{item}]')} setenv"
    yield f"{_text(caption)} {_text(f'{menu}ansi_caption[{item}]')} setenv"
    if command:
        yield f"{_text(command)} {_text(f'{menu}menu_command[{item}]')} setenv"
    if key is not None:
        yield f"{_text(str(key))} {_text(f'{menu}menu_keycode[{item}]')} setenv"


def _text(text: str) -> str:
    """A text of Forth. Double quotes, which would end it, are refused in arguments of kernels
    (`entries`); in titles they become single ones."""
    return f's" {text.replace(chr(34), chr(39))}"'


def _setting(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}="{escaped}"'
