"""`WSLImage`: the image area as a distribution for the Windows Subsystem for Linux.

A `.wsl` file is a tar compressed by gzip. Its /etc/wsl-distribution.conf says how it is installed, its
/etc/wsl.conf how each instance starts. Both are written into the image unless a checkpoint before has done
so. WSL brings the kernel and writes /etc/resolv.conf, which is left out.
Source: Microsoft's documentation of WSL, "Build a custom Linux distribution for WSL" and "Advanced settings
configuration in WSL".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.image.accounts import account_of
from dcd.checkpoints.image.compress import excluded_faults
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.checkpoints.media.deliver import deliver_made, media_name
from dcd.checkpoints.rootfs.compression import check_level, compress
from dcd.checkpoints.rootfs.tree import completed_image
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.forms import ACCOUNT, EXCLUDED, WORD
from dcd.platform.inside import exists, resolve, write
from statemachine.errors import CheckpointError
from store.host.tar import write_tar

_RESOLVER = "etc/resolv.conf"
_INSTANCE, _DISTRIBUTION = "etc/wsl.conf", "etc/wsl-distribution.conf"


@dataclass(frozen=True)
class WSLImage(Checkpoint):
    """Make a distribution for WSL.

    It is installed with `wsl --install --from-file NAME.wsl`, or by a double click (WSL 2.4.4 and newer).
    """

    DESCRIPTION = "Make the distribution for WSL"
    EXPECTED_SECONDS = 20.0
    REQUIRES = (products.IMAGE,)
    PROVIDES = ()
    READS = ("//distro.name", "//distro.add_timestamp")
    TOOLS = ("pack-gzip",)
    DISK_BYTES = 1 << 30

    default_name: Annotated[str, WORD] | None = None
    """The name under which it is installed, if the user gives none. Default: the distribution's name."""

    default_user: Annotated[str, ACCOUNT] | None = None
    """The user of the image who is logged in; by default root."""

    systemd: bool | None = None
    """Whether systemd is started; by default if the image has it."""

    level: int | None = None
    """The level of the compression, 1 to 9; by default gzip's own."""

    exclude: tuple[Annotated[str, EXCLUDED], ...] = ()
    """Paths of the image to leave out, as shell patterns: `var/cache/apt/*`."""

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_level(doc, self, "gzip", self.level)
        yield from excluded_faults(doc, self, self.exclude)

    def execute(self, context: Context) -> None:
        self._settle(context)
        tree = completed_image(context, (*self.exclude, _RESOLVER))
        if any(resolve(context.pkg_image, "boot").glob("vmlinuz*")):
            context.warn("the image has a kernel, which WSL does not use: leave its package out")
        plain = context.tmp / f"{media_name(context.doc, tree.epoch)}.tar"
        context.report(Report(0.1, f"packing {len(tree.entries)} files"))
        with plain.open("wb") as file:
            write_tar(file.write, tree.entries)
        context.report(Report(0.4, f"compressing {plain.stat().st_size / (1 << 20):.1f} MiB"))
        packed = compress(context, plain, "gzip", self.level)
        result = deliver_made(context, packed, "wsl", f"{media_name(context.doc, tree.epoch)}.wsl")
        context.report(Report(1.0, f"{result.name}: {result.stat().st_size / (1 << 20):.1f} MiB"))

    def _settle(self, context: Context) -> None:
        """Write the two files that WSL reads."""
        image = context.pkg_image
        systemd = exists(image, "usr/lib/systemd/systemd")
        if self.systemd and not systemd:
            raise CheckpointError(
                "the image has no systemd to start",
                "usr/lib/systemd/systemd is not in it",
                "add <name>systemd-sysv</name> to the packages, or leave the argument systemd out",
            )
        started = systemd if self.systemd is None else self.systemd
        instance = f"[boot]\nsystemd={'true' if started else 'false'}\n"
        # Blanks are not possible in the name of an installed distribution.
        name = self.default_name or distro(context.doc).name.replace(" ", "-")
        installed = f"[oobe]\ndefaultName={name}\n"
        if self.default_user is not None:
            account = account_of(image, self.default_user)
            if account is None:
                raise CheckpointError(
                    f"the image has no user {self.default_user}",
                    "WSL is to log it in",
                    f'add it in a checkpoint before: <user name="{self.default_user}"/>',
                )
            instance += f"\n[user]\ndefault={self.default_user}\n"
            installed += f"defaultUid={account.uid}\n"
        for path, text in ((_INSTANCE, instance), (_DISTRIBUTION, installed)):
            if not exists(image, path):
                write(image, path, text)
