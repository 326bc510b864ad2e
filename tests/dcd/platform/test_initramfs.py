"""Faster functions for initramfs-tools: the same archive, for the texts that are known, and only for these.

The archives are made from real systems, by the whole of mkinitramfs, and compared byte by byte. What a usual
system does not have is added to it: firmware, links, and a hook that calls the functions in every odd way."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from random import Random

import pytest

from dcd.platform.apt import host_codename, host_sources
from dcd.platform.chroot import chroot
from dcd.platform.initramfs import faster, with_faster_functions
from statemachine.errors import Unprepared
from tests.directories import remove_unmounted

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("own_mounts")]

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
HOOK_FUNCTIONS = "usr/share/initramfs-tools/hook-functions"
GZIP = b"\x1f\x8b\x08"
REPLACED = {
    "bullseye": "copy_exec, manual_add_modules, auto_add_modules",
    "bookworm": "copy_file, copy_exec, manual_add_modules, auto_add_modules",
    "trixie": "copy_file, copy_exec, _call_dracut_install",
}

KERNELS = {
    "bullseye": "linux-image-cloud-amd64",
    "bookworm": "linux-image-amd64",
    "trixie": "linux-image-cloud-amd64",
}
"""One with all drivers, which ask for hundreds of pieces of firmware, and two that are unpacked and gathered
in a third of the time. What needs only one of the systems uses these."""

ODD_CALLS = r"""#!/bin/sh -e
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
try() {
	status=0
	"$@" || status=$?
	echo "$status $*" >> "${DESTDIR}/statuses"
}
for round in first second; do
	try copy_file text /etc/odd/file
	try copy_file text /etc/odd/file /odd/renamed
	try copy_file text /etc/odd/file odd/relative
	try copy_file text /etc/odd//file /odd//doubled/./file
	try copy_file text /etc/odd/../odd/file /odd/up/../file
	try copy_file text /etc/odd/file /odd/slash/
	try copy_file text /etc/odd/file /odd
	try copy_file text /etc/odd/link
	try copy_file text /etc/odd/chain /odd/chained
	try copy_file text /etc/odd/directory/below
	try copy_file text "/etc/odd/with blank"
	try copy_file text "/etc/odd/with blank" "/odd/another blank"
	try copy_file text /etc/odd/missing
	try copy_file text /etc/odd
	try copy_file library /lib/terminfo/l/linux
	try copy_file library /usr/lib/os-release /lib/os-release
	try copy_exec /bin/sh
	try copy_exec /usr/bin/env /bin/other-env
	try copy_exec /sbin/ldconfig /sbin
	try copy_exec /etc/odd/sse2/program
	try copy_exec /nowhere
	try manual_add_modules
	try manual_add_modules zfs_that_is_not_there
	try manual_add_modules dm_mod loop zfs_that_is_not_there nbd
	try manual_add_modules fs-ext4 'pci:v00008086d000010D3sv*'
	try force_load bonding mode=1
	try auto_add_modules scsi nonsense
	try add_firmware odd/there
	try add_firmware odd/missing
done
cd /etc/odd
try copy_file text file /odd/from-here
"""


def make_system(root: Path, suite: str) -> None:
    """A small live system of the suite, from the mirror that this host's apt uses."""
    try:
        mirror = next(source for source in host_sources() if source.suite == host_codename())
    except (Unprepared, StopIteration):
        pytest.skip("this host has no apt sources")
    options = f"[signed-by={mirror.signed_by}] " if mirror.signed_by else ""
    made = subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase"),
            *(f"--include={KERNELS[suite]},live-boot,dmsetup,zstd,busybox", suite, root),
            f"deb {options}{mirror.uri} {suite} main",
        ],
        env={**os.environ, "INITRD": "No"},
        capture_output=True,
        text=True,
    )
    if "does not have a Release file" in made.stderr:
        pytest.skip(f"the mirror of this host has no {suite}")
    assert made.returncode == 0, made.stderr[-3000:]


def make_odd(root: Path) -> None:
    """Give the system firmware, files and links of every kind, and a hook that uses them."""
    odd = root / "etc/odd"
    (odd / "real").mkdir(parents=True)
    (odd / "sse2").mkdir()
    (odd / "file").write_text("a file")
    (odd / "with blank").write_text("a name of two words")
    (odd / "real/below").write_text("below a link")
    (odd / "directory").symlink_to("real")
    (odd / "link").symlink_to("file")
    (odd / "chain").symlink_to("/etc/odd/link")
    (odd / "sse2/program").write_bytes((root / "usr/bin/env").read_bytes())
    (odd / "sse2/program").chmod(0o755)
    hook = root / "etc/initramfs-tools/hooks/zz-odd"
    hook.write_text(ODD_CALLS)
    hook.chmod(0o755)
    (root / "etc/initramfs-tools/modules").write_text("# modules\nnbd nbds_max=2\ne1000e\n")
    (root / "etc/initramfs-tools/conf.d/plain").write_text("COMPRESS=gzip\nCOMPRESSLEVEL=1\n")
    add_firmware(root)


def add_firmware(root: Path) -> None:
    """Half of what the modules of the system ask for, every third as a link to another."""
    with chroot(root) as inside:
        find = "find /lib/modules/ -name '*.ko*' | xargs modinfo -F firmware"
        asked = inside.run(["sh", "-c", find], env={"PATH": PATH}, capture=True)
    names = sorted({name for name in asked.stdout.split() if "*" not in name})
    merged = (root / "lib").is_symlink()
    firmware = root / ("usr/lib/firmware" if merged else "lib/firmware")
    chosen = Random(1).sample(names, len(names) // 2)
    for number, name in enumerate([*chosen, "odd/there"]):
        file = firmware / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if number % 3 == 2:
            file.symlink_to(f"/lib/firmware/{chosen[number - 1]}")
        else:
            file.write_text(name)


def version_of(root: Path) -> str:
    return next((root / "boot").glob("vmlinuz-*")).name.removeprefix("vmlinuz-")


def archive(root: Path, *, faster_functions: bool, log: list[str] | None = None) -> bytes:
    """The initramfs of the system; lines that tell of it go into the log."""
    with chroot(root) as inside, faster(root) if faster_functions else nullcontext("") as how:
        inside.run(
            ["mkinitramfs", "-o", "/run/initrd", version_of(root)],
            env={
                "PATH": PATH,
                "SOURCE_DATE_EPOCH": "1700000000",
                "TMPDIR": "/tmp",
            },
            on_line=None if log is None else log.append,
        )
        if log is not None:
            log.append(how)
        return (root / "run/initrd").read_bytes()


def entries(content: bytes) -> list[str]:
    """The entries with their modes and sizes, also of an archive that does not compress all of them."""
    first_end = content.find(b"TRAILER!!!") if content.startswith(b"0707") else 0
    start = content.index(GZIP, first_end)
    plain = subprocess.run(["gzip", "-dc"], input=content[start:], capture_output=True, check=True)
    listing = ["cpio", "-tv", "--numeric-uid-gid", "--quiet"]
    found = []
    for part in filter(None, (content[:start], plain.stdout)):
        listed = subprocess.run(listing, input=part, capture_output=True, check=True)
        found += listed.stdout.decode().splitlines()
    return found


def files_of(root: Path) -> list[tuple[str, float]]:
    return sorted((str(path), path.lstat().st_mtime) for path in root.rglob("*"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Makes a system of a suite, once. Together they take more than a gigabyte."""
    made: dict[str, Path] = {}

    def make(suite: str) -> Path:
        if suite not in made:
            root = tmp_path_factory.mktemp(suite) / "root"
            make_system(root, suite)
            make_odd(root)
            made[suite] = root
        return made[suite]

    yield make
    for root in made.values():
        remove_unmounted(root)


@pytest.mark.system
@pytest.mark.timeout(900)
@pytest.mark.parametrize("suite", REPLACED)
def test_the_archive_of_faster_functions_is_the_plain_one(
    system: Callable[[str], Path], suite: str
) -> None:
    root = system(suite)
    before = files_of(root)
    plain_log: list[str] = []
    fast_log: list[str] = []
    plain = archive(root, faster_functions=False, log=plain_log)
    fast = archive(root, faster_functions=True, log=fast_log)
    assert entries(fast) == entries(plain)
    assert fast == plain
    assert (
        fast_log[-1]
        == f"/{HOOK_FUNCTIONS} is known: {REPLACED[suite]} replaced by faster functions"
    )
    assert sorted(fast_log[:-1]) == sorted(plain_log[:-1])
    assert files_of(root) == before
    listing = "\n".join(entries(fast))
    assert re.search(r"usr/lib/firmware/odd/there", listing)
    if KERNELS[suite] == "linux-image-amd64":
        assert len(re.findall(r"usr/lib/firmware/.", listing)) > 20
    assert "statuses" in listing


@pytest.mark.system
@pytest.mark.timeout(900)
def test_modules_behind_links_are_gathered_by_the_plain_function(
    system: Callable[[str], Path], tmp_path: Path
) -> None:
    root = system("bullseye")
    module = next((root / "lib/modules").rglob("nbd.ko*"))
    elsewhere = root / "usr/lib/elsewhere.ko"
    module.rename(elsewhere)
    module.symlink_to("/usr/lib/elsewhere.ko")
    try:
        fast = archive(root, faster_functions=True)
        assert fast == archive(root, faster_functions=False)
    finally:
        module.unlink()
        elsewhere.rename(module)
    assert any("usr/lib/elsewhere.ko" in entry for entry in entries(fast))


@pytest.mark.system
@pytest.mark.timeout(900)
def test_an_unknown_version_runs_unchanged(system: Callable[[str], Path]) -> None:
    root = system("trixie")
    file = root / HOOK_FUNCTIONS
    known = file.read_text()
    # What another version could have: the same functions with another result.
    file.write_text(
        re.sub(r"^(\w+\(\)[ \n]\{\n)", r"\1\techo ran >> ${DESTDIR}/ran\n", known, flags=re.M)
    )
    log: list[str] = []
    try:
        fast = archive(root, faster_functions=True, log=log)
        assert fast == archive(root, faster_functions=False)
    finally:
        file.write_text(known)
    assert re.search(r"is unknown \(sha256 [0-9a-f]{64}\), and runs unchanged", log[-1])
    assert any(entry.endswith(" ran") for entry in entries(fast))


@pytest.mark.system
@pytest.mark.timeout(900)
def test_one_changed_function_keeps_those_unchanged_that_stand_on_it(
    system: Callable[[str], Path],
) -> None:
    known = (system("bullseye") / HOOK_FUNCTIONS).read_text()
    changed = known.replace("add_firmware()\n{", "add_firmware()\n{\n\t# changed")
    assert with_faster_functions(changed)[1] == ["copy_exec"]
    twice = known + "\ncopy_exec() {\n\ttrue\n}\n"
    assert "copy_exec" not in with_faster_functions(twice)[1]


def test_what_is_not_known_is_told_by_its_digest_and_not_replaced(bench_root: Path) -> None:
    file = bench_root / HOOK_FUNCTIONS
    file.parent.mkdir(parents=True)
    file.write_text("copy_file() {\n\ttrue\n}\n")
    with faster(bench_root) as how:
        assert file.read_text() == "copy_file() {\n\ttrue\n}\n"
    assert "is unknown (sha256 " in how


def test_an_image_without_initramfs_tools_is_left_alone(bench_root: Path) -> None:
    with faster(bench_root) as how:
        assert "has no" in how
    assert list(bench_root.rglob("*")) == []


@pytest.fixture
def bench_root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root
