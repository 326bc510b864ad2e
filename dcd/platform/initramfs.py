"""The same initramfs in a fraction of the time.

initramfs-tools starts about 15,000 processes to gather an initramfs for any machine: four or more for each
file. `faster` replaces its functions that are known here, by the digest of their text, with functions that
start hardly any. The archive is the same, entry by entry and byte by byte. A function that is not known stays
as it is. The replacement is mounted over the file, in the mount namespace of the caller: the image does not
change.

Source: /usr/share/initramfs-tools/hook-functions of Debian's initramfs-tools 0.140, 0.142, 0.148 and 0.151.
The last two copy modules with dracut-install, which starts one process for each file.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dcd.platform.inside import regular_file, write
from store.host.mounts import bind, unmount

_HOOK_FUNCTIONS = "usr/share/initramfs-tools/hook-functions"
_ASIDE = "run/dcd-hook-functions"
_OWN = Path(__file__).with_name("initramfs.sh")
_FUNCTION = re.compile(r"^(\w+)\(\)[ \n]\{\n.*?^\}\n", re.MULTILINE | re.DOTALL)

_PLAIN_COPY_FILE = "e24b9ff7ec37593569ad54f74e1a8ef56ef3a2a2eaa7c4b7e1889bab160f27ac"  # 0.140
_COPY_FILE = (
    "51544bd45a9588e55bc4e0360c984bffb32384200502abecb9dfd99d068d0aa1",  # 0.142, 0.148
    "8e95baa8e40aa6b7c5bbb1cffad0d7622d842d8586242ec7a7c19f2647301276",  # 0.151
)
_COPY_EXEC = (
    "70ca8a9d8894f92800669c2993d2d03ff31a054a3409224e2d723c1f71fbe8cd",  # 0.140, 0.142
    "c9fb2acb56afab18057ffea751351889765f9b032f407d890b573cd30dc4bf26",  # 0.148, 0.151
)
_MANUAL_ADD_MODULES = (
    "bbc2d6c3143db081540e0a22f488bacd5624e1519d624626dafc84e9232d8e0c",  # 0.140
    "ddd59238c00c2aa60cfd712f12a8a7004641ac86508124ff7b81b22f6d43c825",  # 0.142
)
_ADD_FIRMWARE = (
    "86eca58535a23d3ccd023869ac445b783b4523af017786cc9b12b095b404bc2d",
)  # 0.140, 0.142
_AUTO_ADD_MODULES = (
    "a67160b0dce40f87bb1d9270925c3a5a43eba118bee2bd251c93dd89408a913d",  # 0.140
    "e598e20dd95b4da103e9ec24941146a958d243f5e965b766a24bec74f43bba5e",  # 0.142
)
_CALL_DRACUT_INSTALL = (
    "eaec7db4953613f3fba7bdf9131ae36177977148ded2827a5285dd80ae69ee93",
)  # 0.148
_COPY_MODULES_DIR = ("b9add7e8caa489c20bc690b5a9943bd987501cab226b6b2f79c571770dbd0113",)  # all


@dataclass(frozen=True, slots=True)
class _Faster:
    """How a function becomes faster: by `edits` of its text, or, where there are none, by the function of its
    name in initramfs.sh. `stands_on` are the functions, itself among them, on which the equal result depends,
    each with the digests of the texts that are known."""

    stands_on: Mapping[str, tuple[str, ...]]
    edits: tuple[tuple[str, str], ...] = ()


_MODULES = {
    "manual_add_modules": _MANUAL_ADD_MODULES,
    "add_firmware": _ADD_FIRMWARE,
    "copy_file": (_PLAIN_COPY_FILE, *_COPY_FILE),
}
_MKDIR = '\tmkdir -p "${DESTDIR}/${target%/*}"\n'

_FASTER: Mapping[str, _Faster] = {
    "copy_file": _Faster(
        {"copy_file": _COPY_FILE},
        (
            (
                '\ttarget="$(realpath',
                '\tcase "${target}" in\n\t/*) ;;\n\t*) target="/${target}" ;;\n\tesac\n'
                '\tdcd_is_canonical "${target}" || target="$(realpath',
            ),
            ("$(readlink -f /bin)", "${dcd_bin:=$(readlink -f /bin)}"),
            (_MKDIR, f'\t[ -d "${{DESTDIR}}/${{target%/*}}" ] || {_MKDIR.strip()}\n'),
            (
                '\tlink_target="$(readlink',
                '\tlink_target=\n\tdcd_is_real "${src}" || link_target="$(readlink',
            ),
            (
                'if [ "${link_target}" != "$(realpath',
                'if [ -n "${link_target}" ] && [ "${link_target}" != "$(realpath',
            ),
        ),
    ),
    "copy_exec": _Faster(
        {"copy_exec": _COPY_EXEC},
        (
            (
                '\t\tnonoptlib=$(echo "${x}"',
                '\t\tcase "${x}" in\n\t\t*tls* | *i686* | *sse2* | *neon* | *vfp* | *\\\\*)\n'
                '\t\tnonoptlib=$(echo "${x}"',
            ),
            (
                '\t\tif [ -e "${nonoptlib}" ]',
                '\t\t;;\n\t\t*) nonoptlib="${x}" ;;\n\t\tesac\n\t\tif [ -e "${nonoptlib}" ]',
            ),
        ),
    ),
    "manual_add_modules": _Faster(_MODULES),
    "auto_add_modules": _Faster(
        {
            **_MODULES,
            "auto_add_modules": _AUTO_ADD_MODULES,
            "copy_modules_dir": _COPY_MODULES_DIR,
        }
    ),
    "_call_dracut_install": _Faster({"_call_dracut_install": _CALL_DRACUT_INSTALL}),
}
"""By name. What a text that is known here does is compared, archive with archive, by the tests."""


@contextmanager
def faster(root: Path) -> Iterator[str]:
    """Let the programs in a root that `dcd.platform.chroot` has made ready use faster functions of
    initramfs-tools, as far as its own are known. Yields what was done, for the log. Raises OSError when the
    mount namespace is not the caller's own."""
    file = regular_file(root, _HOOK_FUNCTIONS)
    if file is None:
        yield f"the image has no /{_HOOK_FUNCTIONS}: its initramfs is made by its own programs alone"
        return
    content = file.read_bytes()
    text, names = with_faster_functions(content.decode("utf-8", "surrogateescape"))
    if not names:
        digest = hashlib.sha256(content).hexdigest()
        yield f"/{_HOOK_FUNCTIONS} is unknown (sha256 {digest}), and runs unchanged"
        return
    aside = write(root, _ASIDE, text.encode("utf-8", "surrogateescape"))
    bind(aside, file)
    # The mount keeps it; nothing that looks into /run finds it.
    aside.unlink()
    try:
        yield f"/{_HOOK_FUNCTIONS} is known: {', '.join(names)} replaced by faster functions"
    finally:
        unmount(file)


def with_faster_functions(text: str) -> tuple[str, list[str]]:
    """The text of hook-functions, followed by the faster functions for those in it that are known; and their
    names."""
    functions = _functions(text)
    known = {
        name: faster
        for name, faster in _FASTER.items()
        if all(_digest(functions.get(each)) in texts for each, texts in faster.stands_on.items())
    }
    if not known:
        return text, []
    own = _OWN.read_text()
    for name in _functions(own).keys() & (_FASTER.keys() - known.keys()):
        own = own.replace(_functions(own)[name], "")
    parts = [text, own]
    for name, faster in known.items():
        function = functions[name]
        if not faster.edits:
            function = f"dcd_plain_{function}"
        for old, new in faster.edits:
            function = function.replace(old, new)
        parts.append(function)
    return "\n".join(parts), list(known)


def _functions(text: str) -> dict[str, str]:
    """The functions of a shell's text by name; of one that is there twice, none."""
    found: dict[str, str] = {}
    for match in _FUNCTION.finditer(text):
        found[match[1]] = "" if match[1] in found else match[0]
    return found


def _digest(text: str | None) -> str:
    return hashlib.sha256((text or "").encode("utf-8", "surrogateescape")).hexdigest()
