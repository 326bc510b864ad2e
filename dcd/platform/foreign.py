"""Running programs of other Debian architectures on this host: whether it can, and what is missing.

mmdebstrap needs arch-test(1) for every architecture except the host's own. qemu-user runs the programs that
the processor cannot, if the kernel has it registered with the flag F (fix binary), so that it also works in
another root. Source: the kernel's Documentation/admin-guide/binfmt-misc.rst, mmdebstrap(1).
"""

import platform
from pathlib import Path

from statemachine.errors import DcdError
from store.host import tools
from store.host.process import run

ARCHITECTURES = (
    *("alpha", "amd64", "arm64", "armel", "armhf", "hppa", "i386", "loong64", "m68k", "mips"),
    *("mips64", "mips64el", "mipsel", "powerpc", "ppc64", "ppc64el", "riscv64", "s390x", "sh4"),
    "sparc64",
)
"""Debian's architectures."""

_QEMU = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "armel": "arm",
    "armhf": "arm",
    "loong64": "loongarch64",
    "powerpc": "ppc",
    "ppc64el": "ppc64le",
}
"""qemu-user's names for architectures, where they differ from Debian's."""

X86 = ("amd64", "i386")

_NATIVE = {
    "x86_64": ("amd64", "i386"),
    "i686": ("i386",),
    "aarch64": ("arm64",),
    "armv7l": ("armhf", "armel"),
    "ppc64le": ("ppc64el",),
    "riscv64": ("riscv64",),
    "s390x": ("s390x",),
}
"""Machine, as in uname(2), to the architectures that it runs itself; its own is first."""

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_EMULATORS = ("/usr/bin/qemu-{}-static", "/usr/bin/qemu-{}")


def native() -> tuple[str, ...]:
    """The architectures that the processor of this host runs by itself, its own first; none of them for a
    host that Debian does not have."""
    return _NATIVE.get(platform.machine(), ())


def own() -> str:
    """The architecture of this host; "" for one that Debian does not have."""
    return next(iter(native()), "")


def is_own(architecture: str) -> bool:
    """Whether it is the architecture of this host."""
    return own() == architecture


def obstacle(architecture: str) -> tuple[str, str] | None:
    """The reason why this host cannot build an image of that architecture, and the remedy; None when it
    can."""
    if is_own(architecture):
        return None
    absent = tools.missing(["arch-test"])
    runs = _runs(architecture)
    if runs and not absent:
        return None
    why = [f"{name} is not installed" for name in absent]
    wanted = ["arch-test"] if absent else []
    steps = []
    if not runs:
        name = _QEMU.get(architecture, architecture)
        why.append(f"the kernel runs no {architecture} programs")
        if not any(Path(place.format(name)).exists() for place in _EMULATORS):
            wanted += ["qemu-user-static", "binfmt-support"]
            why.append("qemu-user is not installed")
        if not (_BINFMT / "register").exists():
            steps.append("mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc")
        steps.append(f"register qemu-user: update-binfmts --enable qemu-{name}")
    install = [f"apt-get install {' '.join(wanted)}"] if wanted else []
    return "; ".join(why), "; ".join([*install, *steps])


def runnable() -> list[str]:
    """The other architectures for which this host can build images."""
    return [name for name in ARCHITECTURES if not is_own(name) and obstacle(name) is None]


def _runs(architecture: str) -> bool:
    """Whether the kernel runs programs of that architecture."""
    if (tester := tools.tool_named("arch-test").find()) is not None:
        try:
            run([tester, architecture], capture=True, merge=True, timeout_seconds=10)
        except DcdError:
            return False
        return True
    if architecture in native():
        return True
    try:
        entry = (_BINFMT / f"qemu-{_QEMU.get(architecture, architecture)}").read_text("ascii")
    except OSError:
        return False
    lines = entry.splitlines()
    return lines[:1] == ["enabled"] and any(
        line.startswith("flags:") and "F" in line for line in lines
    )
