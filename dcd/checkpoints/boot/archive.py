"""`DebianBootArchive`: kernel and initramfs of the image, into the boot archive area.

The initramfs is made once, here, with the image's own initramfs-tools and hooks (live-boot makes
it one that boots a live medium), for any machine (MODULES=most). Results: boot_archive/vmlinuz and
boot_archive/initrd.img; the kernel's version goes into the DOC's persistent part. The image area itself is
unchanged except for further kernels: each gets its package's initramfs in /boot, so that a system which is
installed from the image can start all of its kernels. For a disk with LUKS or dm-verity the image also gets
what opens and grows them (`dcd.checkpoints.vm.opening`), so that this initramfs and later ones have it.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from dcd.checkpoints import architecture, products
from dcd.checkpoints.architecture import hardware
from dcd.checkpoints.boot.reads import INITRAMFS
from dcd.checkpoints.interface import MOUNTS, Checkpoint, Context, Needs, Report
from dcd.checkpoints.vm.layout import examine_layout
from dcd.checkpoints.vm.opening import write_opening
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache, DataObjectDict
from dcd.manifest.forms import KERNEL_VERSION
from dcd.platform.chroot import Inside, chroot
from dcd.platform.hardware import Hardware
from dcd.platform.initramfs import faster
from dcd.platform.inside import entry, exists, new_file, regular_file, resolve, write
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed

_SETTINGS = "etc/initramfs-tools/conf.d/zz-dcd"
_RESULT = "dcd-initrd.img"
_TOO_LARGE = re.compile(
    r"cpio: (.+): (value file size .* out of allowed range|field width not suff).*"
)
"""cpio's message for a file of 4 GiB or more, which it leaves out: sizes have 32 bits. Source: cpio(5)."""
_ROOMY_BYTES = 2 << 30
"""The free memory with which an initramfs (a few hundred MiB) is gathered in memory."""
_WITHOUT_LEVELS = re.compile(rb'^zstd\)\tcompress="zstd -q -19 -T0" ;;$', re.MULTILINE)
"""A line of the mkinitramfs of Debian 11, which has no COMPRESSLEVEL."""
_OWN_LEVEL = """case "$0" in
*/mkinitramfs)
	{compressor}()
	{{
		shift {fixed}
		command {compressor} -{level} "$@"
	}}
	;;
esac
"""
"""A function for the compressor. `fixed` is the number of options, level among them, that this mkinitramfs
gives first. The settings are also in the initramfs, where the function is not defined."""
_FIXED = {"zstd": 3, "lz4": 1, "gzip": 0, "xz": 0}
_LEVELS = {"zstd": range(1, 20), "gzip": range(1, 10), "xz": range(10), "lz4": range(1, 13)}


@dataclass(frozen=True)
class DebianBootArchive(Checkpoint):
    """Make the boot archive of a Debian image."""

    DESCRIPTION = "Make the boot archive: kernel and initramfs"
    PROVIDES = (products.BOOT_ARCHIVE, products.KERNEL_RECORD)
    VERSION = 2
    READS = ("//target", "//distro.name", *architecture.READS)
    TOOLS = ("chroot",)
    INPUTS = INITRAMFS

    kernel: Annotated[str, KERNEL_VERSION] | None = None
    """The kernel version to use where several are installed, as in /boot/vmlinuz-VERSION."""

    compression_type: Literal["auto", "zstd", "gzip", "xz", "lz4"] = "auto"
    """The compressor; the image needs its program. `auto` is zstd where the image has it, else
    gzip."""

    compression_level: int = 1
    """The compressor's own level."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(tools=self.TOOLS, disk_bytes=512 << 20, capabilities=MOUNTS)

    def requires(self, doc: DataObjectCache) -> Iterator[tuple[str, ...]]:
        yield from ((name,) for name in (products.IMAGE, products.KERNEL))
        layout, _ = examine_layout(doc)
        for product, needed in (
            (products.CRYPTSETUP, any(one.luks for one in layout.containers)),
            (products.LVM, any(one.group for one in layout.containers)),
            (products.VERITYSETUP, any(one.verity for one in layout.containers)),
        ):
            if needed:
                yield (product,)

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        levels = _LEVELS["gzip" if self.compression_type == "auto" else self.compression_type]
        if self.compression_level not in levels:
            yield self.fault(
                doc,
                "compression_level",
                f"compression_level {self.compression_level} is out of range",
                f"{self.compression_type} has levels {levels[0]} to {levels[-1]}",
                f'<arg name="compression_level">{levels[0]}</arg>',
            )

    def get_progress_estimate(self) -> float:
        return 8.0

    def execute(self, context: Context) -> None:
        image = context.pkg_image
        machine = hardware(context.doc)
        version = _kernel_version(image, self.kernel, machine)
        write_opening(image, examine_layout(context.doc)[0])
        context.report(Report(0.0, f"making the initramfs of kernel {version}"))
        with chroot(image) as inside, faster(image) as how:
            context.report(Report(message=how))
            self._make_initramfs(inside, context, version, context.boot_archive, "initrd.img")
            for other in _without_initramfs(image, version, machine):
                context.report(Report(message=f"making the initramfs of kernel {other} too"))
                self._make_initramfs(inside, context, other, image, f"boot/initrd.img-{other}")
        _take(image, f"boot/{machine.kernel_file}-{version}", context.boot_archive, "vmlinuz")
        context.doc.persistent.delete_children(name="boot_archive")
        context.doc.persistent.insert_children(
            DataObjectDict("boot_archive", {"kernel_version": version})
        )

    def _make_initramfs(
        self, inside: Inside, context: Context, version: str, area: Path, name: str
    ) -> None:
        compressor = self._compressor(inside)
        if not inside.has("/usr/sbin/mkinitramfs"):
            raise CheckpointError(
                "the image cannot make an initramfs",
                "/usr/sbin/mkinitramfs is not in the image",
                "add the package initramfs-tools (or live-boot, for a live image) to the transfer",
            )
        settings = write(inside.root, _SETTINGS, self._settings(inside, compressor))
        too_large: list[str] = []

        def hear(line: str) -> None:
            if found := _TOO_LARGE.fullmatch(line):
                too_large.append(found[1])

        try:
            inside.run(
                ["mkinitramfs", "-o", f"/{_RESULT}", version],
                env={**context.environment, "TMPDIR": _scratch()},
                timeout_seconds=1800,
                on_line=hear,
            )
            _refuse_large(too_large)
            _take(inside.root, _RESULT, area, name, move=True)
        except ToolFailed:
            _refuse_large(too_large)
            raise
        finally:
            settings.unlink()
            entry(inside.root, _RESULT).unlink(missing_ok=True)

    def _settings(self, inside: Inside, compressor: str) -> str:
        level = self.compression_level
        settings = f"MODULES=most\nCOMPRESS={compressor}\nCOMPRESSLEVEL={level}\n"
        program = regular_file(inside.root, "usr/sbin/mkinitramfs")
        if program is not None and _WITHOUT_LEVELS.search(program.read_bytes()):
            fixed = _FIXED[compressor]
            settings += _OWN_LEVEL.format(compressor=compressor, fixed=fixed, level=level)
        return settings

    def _compressor(self, inside: Inside) -> str:
        if self.compression_type == "auto":
            return "zstd" if inside.has("/usr/bin/zstd") else "gzip"
        # mkinitramfs itself would silently take gzip instead.
        if not any(inside.has(f"/{at}/{self.compression_type}") for at in ("usr/bin", "bin")):
            package = {"xz": "xz-utils"}.get(self.compression_type, self.compression_type)
            raise CheckpointError(
                f"the image has no {self.compression_type} to compress the initramfs with",
                "",
                f'add the package {package} to the transfer, or use compression_type "auto"',
            )
        return self.compression_type


def _refuse_large(names: Sequence[str]) -> None:
    if names:
        raise CheckpointError(
            "an initramfs cannot hold a file of 4 GiB and more",
            "\n".join(names),
            "keep it out of the initramfs: look for the hook in /etc/initramfs-tools/hooks that adds it",
        )


def _take(image: Path, path: str, area: Path, name: str, *, move: bool = False) -> None:
    """Copy or move a file of the image into the boot archive. The image's own programs may have made
    anything, such as a link to a file of the build host."""
    file = regular_file(image, path)
    if file is None:
        raise CheckpointError(
            f"/{path} of the image is not a file", "it is missing or something else"
        )
    target = new_file(area, name)
    if move:
        file.rename(target)
    else:
        shutil.copyfile(file, target)


def _scratch() -> str:
    """The directory of the image in which mkinitramfs gathers its thousands of small files: in memory if
    there is enough, otherwise on disk. Source: proc(5), meminfo."""
    meminfo = Path("/proc/meminfo").read_text("ascii")
    fields = dict(line.split(":") for line in meminfo.splitlines())
    available_bytes = int(fields["MemAvailable"].split()[0]) << 10
    return "/tmp" if available_bytes >= _ROOMY_BYTES else "/var/tmp"


def _versions(image: Path, machine: Hardware) -> list[str]:
    """The versions of the image's kernels, sorted as text."""
    beginning = f"{machine.kernel_file}-"
    files = resolve(image, "boot").glob(f"{beginning}*")
    return sorted(file.name.removeprefix(beginning) for file in files)


def _without_initramfs(image: Path, chosen: str, machine: Hardware) -> list[str]:
    """The kernels beside the chosen one that lack only their initramfs."""
    return [
        version
        for version in _versions(image, machine)
        if version != chosen
        and exists(image, f"lib/modules/{version}")
        and not exists(image, f"boot/initrd.img-{version}")
    ]


def _kernel_version(image: Path, wanted: str | None, machine: Hardware) -> str:
    """The version of the one kernel of the image, or of the wanted one."""
    found = _versions(image, machine)
    if not found:
        raise CheckpointError(
            "the image has no kernel",
            f"there is no /boot/{machine.kernel_file}-VERSION in it",
            f"add a kernel to the transfer, such as {machine.kernel}",
        )
    if wanted is not None and wanted not in found:
        raise CheckpointError(
            f"the image has no kernel {wanted}",
            f"it has {', '.join(found)}",
            "correct the argument kernel, or leave it out where there is only one",
        )
    if wanted is None and len(found) > 1:
        raise CheckpointError(
            "the image has several kernels",
            ", ".join(found),
            f'choose one: <arg name="kernel">{found[-1]}</arg>, or install only one',
        )
    version = wanted or found[0]
    if not exists(image, f"lib/modules/{version}"):
        raise CheckpointError(
            f"kernel {version} of the image has no modules",
            f"/lib/modules/{version} is not there",
            "install the package of the kernel, not only its file",
        )
    return version
