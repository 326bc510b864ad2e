"""Installation of downloaded packages into an empty root, or into an existing system.

`bootstrap` makes a system with mmdebstrap, and `extend` adds packages to it. `change` installs packages into
the system of an earlier checkpoint, and removes others; the configuration of that system, including debconf's
answers, applies to them. All work without the network. Errors have their cause first, for a package's script
its package.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dcd.checkpoints.transfer.deb_settings import Settings, leave_dpkg_options
from dcd.platform.apt import Source, source_list
from dcd.platform.apt_root import MIRROR_NAME, Environment, Place, settings_in_root
from dcd.platform.chroot import bootstrap_mounts, chroot
from dcd.platform.inside import entry, exists, make_directory, require_no_links, resolve, write
from statemachine.errors import CheckpointError
from store.host.capabilities import CHROOT, keep_only
from store.host.devices import LINKS, make_devices
from store.host.process import ToolFailed, operand, run
from store.host.removal import remove_tree

OnLine = Callable[[str], None]

_NO_INITRAMFS = {"INITRD": "No"}
"""The boot archive checkpoint makes it once."""

_NO_QUESTIONS = {
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBCONF_NONINTERACTIVE_SEEN": "true",
    "DEBCONF_NOWARNINGS": "yes",
}
_LANGUAGE = dict.fromkeys(("LC_ALL", "LANGUAGE", "LANG"), "C.UTF-8")
_START = "sbin/start-stop-daemon"
_LEFT = (
    *("var/log/dpkg.log", "var/log/apt/history.log", "var/log/apt/term.log"),
    *("var/log/alternatives.log", "var/log/apt/eipp.log.xz", "var/cache/ldconfig/aux-cache"),
)
_POLICY = "usr/sbin/policy-rc.d"
"""Where it says 101, packages start no service. Source: Debian's invoke-rc.d(8)."""

_SCRIPT_FAILED = re.compile(
    r"^dpkg: error processing (?:package|archive) (\S+) \(--\w+\):\n(.*)$", re.M
)
_ERRORS = re.compile(r"^(?:E|dpkg|mmdebstrap|dpkg-deb|tar): (?!warning).*$", re.MULTILINE)


def bootstrap(
    place: Place,
    *,
    variant: str,
    include: Sequence[str],
    never: Sequence[str],
    architecture: str,
    sources: Sequence[Source],
    settings: Settings,
    environment: Mapping[str, str],
    on_line: OnLine,
) -> None:
    """Make a system of the variant and the packages `include`, from the root's lists and package cache, with
    the settings from the first package on. Raises `CheckpointError`."""
    root = place.root
    # mmdebstrap would write through them.
    require_no_links(root, ("etc/hostname", "etc/resolv.conf"))
    mirror = place.aside / MIRROR_NAME
    mirror.write_text(source_list(sources))
    command: list[str | Path] = [
        "mmdebstrap",
        "--verbose",
        "--mode=root",
        "--format=directory",
        f"--variant={variant}",
        f"--architectures={architecture}",
        # The lists and the cache are in place already, and so are /proc and /dev.
        "--skip=check/empty,check/signed-by,update,output/dev,chroot/mount",
        *([f"--include={','.join(include)}"] if include else []),
        *(f"--dpkgopt={option}" for option in settings.dpkg_options),
        *_answering(place, settings),
        operand(sources[0].suite),
        root,
        mirror,
    ]
    with (
        _hosts_files_kept_out(root),
        settings_in_root(root, never, settings.pins),
        bootstrap_mounts(root),
    ):
        for link in LINKS:
            # mmdebstrap makes and removes these itself.
            (root / "dev" / link).unlink()
        with _explained():
            run(
                command,
                env={**environment, **_NO_INITRAMFS},
                on_line=on_line,
                # The packages' scripts run with the same rights, so without that to mount.
                start=partial(keep_only, CHROOT),
            )
    make_devices(make_directory(root, "dev"))


def _answering(place: Place, settings: Settings) -> list[str]:
    """The option of mmdebstrap that hands answers to debconf once it is there."""
    if not settings.answers:
        return []
    answers = place.aside / "answers"
    answers.touch(0o600)
    answers.write_text(settings.answers)
    return [f'--essential-hook=chroot "$1" debconf-set-selections <{shlex.quote(str(answers))}']


def extend(
    place: Place,
    *,
    include: Sequence[str],
    apt: Environment,
    environment: Mapping[str, str],
    on_line: OnLine,
) -> None:
    """Install the packages `include` into a system that `bootstrap` has made, from the root's package cache,
    as the last step of `bootstrap` would. Raises `CheckpointError`. Source: mmdebstrap(1), its `run_install`
    and `run_cleanup`."""
    root = place.root
    command = [*_apt_get(root), "install", *map(operand, include)]
    with (
        _hosts_files_kept_out(root),
        bootstrap_mounts(root),
        _no_services(root),
        _no_daemons(root),
        _explained(),
    ):
        run(
            command,
            env={**environment, **_NO_INITRAMFS, **_NO_QUESTIONS, **_LANGUAGE, **apt},
            on_line=on_line,
            start=partial(keep_only, CHROOT),
        )
    _clean(root)


def change(
    place: Place,
    *,
    include: Sequence[str],
    remove: Sequence[str],
    apt: Environment,
    settings: Settings,
    environment: Mapping[str, str],
    on_line: OnLine,
) -> None:
    """Install the packages `include` into the system in the root, from its package cache, with the settings,
    and remove the packages `remove` with their configuration. Raises `CheckpointError`."""
    leave_dpkg_options(place.root, settings)
    command = [
        *(*_apt_get(place.root), "--purge"),
        # Configuration files that a script has changed stay.
        *("-o", "DPkg::Options::=--force-confold", "-o", "DPkg::Options::=--force-confdef"),
        "install",
        *map(operand, include),
        *(f"{name}-" for name in remove),
    ]
    with chroot(place.root) as inside, _no_services(place.root), _explained():
        if settings.answers:
            inside.run(["debconf-set-selections"], stdin=settings.answers.encode())
        run(
            command,
            env={**environment, **_NO_INITRAMFS, **_NO_QUESTIONS, **apt},
            on_line=on_line,
            start=partial(keep_only, CHROOT),
        )


def _apt_get(root: Path) -> list[str]:
    return [
        *("apt-get", "--yes", "--no-download", "-o", f"DPkg::Chroot-Directory={root}"),
        # Inside the image the paths in these variables are invalid.
        *("-o", "Dir::Bin::dpkg=env"),
        *("-o", "DPkg::Options::=--unset=TMPDIR", "-o", "DPkg::Options::=--unset=APT_CONFIG"),
        *("-o", "DPkg::Options::=dpkg", "-o", "DPkg::Use-Pty=false"),
    ]


def installed(root: Path) -> set[str]:
    """The names of the installed packages in the root, with and without their architectures."""
    listing = run(
        [
            "dpkg-query",
            f"--admindir={root}/var/lib/dpkg",
            "--show",
            "--showformat=${db:Status-Status}\t${Package}\t${Architecture}\n",
        ],
        capture=True,
        timeout_seconds=60,
    ).stdout
    fields = [line.split("\t") for line in listing.splitlines()]
    there = [(name, architecture) for status, name, architecture in fields if status == "installed"]
    return {name for name, _ in there} | {f"{name}:{architecture}" for name, architecture in there}


@contextmanager
def _hosts_files_kept_out(root: Path) -> Iterator[None]:
    """Files that mmdebstrap would otherwise copy from the host exist inside."""
    made = []
    for path, content in (("etc/hostname", "localhost\n"), ("etc/resolv.conf", "")):
        if not os.path.lexists(entry(root, path)):
            made.append(write(root, path, content))
    try:
        yield
    finally:
        for file in made:
            file.unlink(missing_ok=True)


@contextmanager
def _no_services(root: Path) -> Iterator[None]:
    if exists(root, _POLICY):
        yield
        return
    policy = write(root, _POLICY, "#!/bin/sh\nexit 101\n", mode=0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


@contextmanager
def _no_daemons(root: Path) -> Iterator[None]:
    """Scripts that use start-stop-daemon(8) directly start nothing."""
    program = resolve(root, _START)
    real = program.with_name(f"{program.name}.REAL")
    if not program.is_file():
        yield
        return
    program.rename(real)
    try:
        write(root, _START, '#!/bin/sh\necho "Warning: starts nothing" >&2\n', mode=0o755)
        yield
    finally:
        real.rename(program)


def _clean(root: Path) -> None:
    """Remove logs and caches that depend on the time, and what scripts left in /run and /tmp."""
    for path in _LEFT:
        entry(root, path).unlink(missing_ok=True)
    for directory in ("run", "tmp"):
        for left in resolve(root, directory).glob("*"):
            if (directory, left.name) == ("run", "lock"):
                continue
            if left.is_dir() and not left.is_symlink():
                remove_tree(left)
            else:
                left.unlink()


@contextmanager
def _explained() -> Iterator[None]:
    """Put the cause of an error first: a package's script, or the tool's message."""
    try:
        yield
    except ToolFailed as error:
        if failed := dict(_SCRIPT_FAILED.findall(error.output)):
            names = ", ".join(failed)
            raise CheckpointError(
                f"{'packages' if len(failed) > 1 else 'the package'} {names} cannot be installed",
                error.output,
                "see the messages of its script in the log; list another version of it, or leave it out",
            ) from error
        if said := _ERRORS.findall(error.output):
            raise CheckpointError(
                "the packages cannot be installed",
                "\n".join([*dict.fromkeys(said), f"({error.brief})"]),
                "correct the cause, or the list of packages; then resume the build",
            ) from error
        raise
