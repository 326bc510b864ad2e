"""pkg(1) on one image: its commands go to the log, and failures of repositories are retried."""

import os
import re
import shlex
import stat
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, unquote

from dcd.checkpoints.image.identity import remove_identity
from dcd.checkpoints.interface import Context, Report
from dcd.checkpoints.packages import LICENCE_LIST, PACKAGE_LIST, deliver_list
from dcd.checkpoints.transfer.ips_cache import Cache, lend_cache
from dcd.checkpoints.transfer.ips_output import (
    InstallProgress,
    PackagedFile,
    accepted_licences,
    cause,
    package_lines,
    packaged_files,
)
from dcd.platform.inside import entry, read, regular_file, resolve
from dcd.platform.ips import BACK_OFF_SECONDS
from dcd.platform.ips_image import forget_host
from statemachine.errors import CheckpointError, Unprepared
from store.host.process import ToolFailed, log_line
from store.resolved import Resolved, ResolvedPackage, encoded

NOTHING_TO_DO = 4
"""Exit status of pkg(1) when there is nothing to change."""

_BUILD_RELEASE = re.compile(r",[0-9.]+")


class Pkg:
    """pkg(1) on the image at `root`. With `show`, its lines are repeated as progress messages."""

    def __init__(self, context: Context, root: Path, show: bool) -> None:
        self.context = context
        self.root = root
        self._progress = InstallProgress(context.report, show)
        self._cache: Cache | None = None

    def create(self, *arguments: str) -> None:
        """Make the image."""
        self._run(["pkg", "image-create", *arguments, str(self.root)], (0,))

    def run(self, *arguments: str, ok: Sequence[int] = (0,)) -> None:
        """Run a subcommand; its output goes to the log. A failure of a repository is retried for a while.
        Raises `ToolFailed`, and `Unprepared` for a repository."""
        command = ["pkg", "-R", str(self.root), *arguments]
        for pause in (*BACK_OFF_SECONDS, None):
            try:
                self._run(command, ok)
                return
            except ToolFailed as error:
                why = cause(error.output)
                if not why:
                    raise
                if why != "transport" or pause is None:
                    brief, remedy = _UNSERVED[why]
                    tried = (
                        f"tried {len(BACK_OFF_SECONDS) + 1} times\n" if why == "transport" else ""
                    )
                    raise Unprepared(brief, f"{tried}{error.details}", remedy) from error
                log_line(f"a repository did not answer; again in {pause:g} seconds")
            time.sleep(pause)

    def ask(self, *arguments: str, ok: Sequence[int] = (0,)) -> list[str]:
        """The lines that a subcommand prints."""
        command = ["pkg", "-R", str(self.root), *arguments]
        return self.context.run(command, capture=True, ok=ok).stdout.splitlines()

    def use_cache(self) -> None:
        """From now on, take contents of packages from the package store, and leave downloaded ones to it."""
        if self.context.packages is not None:
            listed = self.ask("publisher", "-H", "-F", "tsv")
            publishers = dict.fromkeys(line.split("\t")[0] for line in listed)
            self._cache = lend_cache(self.context.packages, publishers)

    def settle_files(self) -> None:
        """Restore the modes of the packages' files, and note which ones came from the package store."""
        if self._cache is None and sys.platform != "linux":
            return
        columns = "action.hash,mode,path"
        files = packaged_files(self.ask("contents", "-H", "-t", "file", "-o", columns, ok=(0, 1)))
        if self._cache is not None and (
            used := self._cache.note_use(file.content for file in files)
        ):
            message = f"from the package store: {used} of {len(files)} files"
            self.context.report(Report(message=message))
        if sys.platform == "linux":
            self._restore_modes(files)

    def deliver_lists(self) -> None:
        """Deliver the lists of the packages in the image and of the licences accepted for them. Record the
        packages for later checkpoints and the provenance, each with the digest of its manifest as pkg has it,
        unless the daemon's settings say to record nothing."""
        lines = package_lines(self.ask("list", "-H", "-v", "--no-refresh", ok=(0, 1)))
        deliver_list(self.context, "".join(f"{line}\n" for line in lines))
        packages = tuple(self._resolved(*line.split("\t")) for line in lines)
        self._deliver_licences(packages)
        store = self.context.packages
        if store is None or store.capture == "none":
            return
        if name := store.add(encoded(Resolved(packages))):
            self.context.resolve(name)

    def _deliver_licences(self, packages: Sequence[ResolvedPackage]) -> None:
        """Deliver the accepted licences: a line for each, with package, version and licence."""
        lines = [
            f"{package.name}\t{package.version}\t{licence}\n"
            for package in packages
            for licence in package.accepted
        ]
        if not lines and read(self.context.media, LICENCE_LIST) is None:
            return
        deliver_list(self.context, "".join(sorted(lines)), LICENCE_LIST)
        count = "1 licence" if len(lines) == 1 else f"{len(lines)} licences"
        message = f"accepted {count}, which {LICENCE_LIST} lists"
        self.context.report(Report(message=message))

    def _resolved(self, publisher: str, name: str, version: str) -> ResolvedPackage:
        manifest = self._manifest(publisher, name, version)
        content = manifest.read_bytes() if manifest else b""
        return ResolvedPackage(
            kind="ips",
            name=name,
            version=version,
            architecture="",
            sha256=sha256(content).hexdigest() if manifest else "",
            size_bytes=len(content),
            uri=f"pkg://{publisher}/{name}@{version}",
            accepted=tuple(accepted_licences(content.decode("utf-8", "replace"))),
        )

    def _manifest(self, publisher: str, name: str, version: str) -> Path | None:
        """The manifest of an installed package. pkg lists versions without the build release, which the names
        of files have: `0.5.11,5.11-151050.0:20260101T000000Z`.

        Source: pkg5, fmri.py (`get_dir_path`), client.py (`list_inventory`).
        """
        place = f"var/pkg/publisher/{publisher}/pkg/{quote(name, '')}"
        directory = resolve(self.root, place)
        for file in sorted(directory.iterdir()) if directory.is_dir() else ():
            if _BUILD_RELEASE.sub("", unquote(file.name)) == version:
                return regular_file(self.root, f"{place}/{file.name}")
        return None

    def _restore_modes(self, files: Sequence[PackagedFile]) -> None:
        """Restore set-id and sticky bits. pkg sets a file's mode and then its owner, and Linux then removes
        the bits."""
        restored = 0
        for packaged in files:
            file = entry(self.root, packaged.path)
            if not packaged.mode & 0o7000 or not os.path.lexists(file):
                continue
            present = file.lstat().st_mode
            if stat.S_ISREG(present) and stat.S_IMODE(present) != packaged.mode:
                file.chmod(packaged.mode)
                restored += 1
        if restored:
            count = "1 file" if restored == 1 else f"{restored} files"
            message = f"restored the set-id bits of {count}, which the kernel had removed"
            self.context.report(Report(message=message))

    def forget_host(self) -> None:
        """Take out of the image what belongs to one machine or to the build host."""
        remove_identity(self.root)
        packages = read(self.context.media, PACKAGE_LIST) or ""
        if gone := forget_host(self.root, packages):
            self.context.report(Report(message=f"not left in the image: {', '.join(gone)}"))

    def verify(self) -> None:
        """Raise `CheckpointError` unless the image matches its packages."""
        try:
            self.run("verify")
        except ToolFailed as error:
            raise CheckpointError(
                "the image differs from its packages",
                error.output,
                "a file with an error was changed after the installation of its package, or could not be "
                "installed completely; leave out verify if that is intended",
            ) from error

    def _run(self, command: Sequence[str], ok: Sequence[int]) -> None:
        log_line(f"# {shlex.join(command)}")
        cache = self._cache.environment if self._cache else {}
        self.context.run(command, on_line=self._progress.line, ok=ok, env=cache)


_UNSERVED = {
    "missing": (
        "a repository does not have the content of its packages",
        "report it to its maintainer (pkgrepo verify finds missing files), or list another version",
    ),
    "signature": (
        "packages are not signed as their publisher's signature_policy requires",
        "use a repository whose packages are signed, or another signature_policy",
    ),
    "transport": (
        "a repository does not serve a file that the packages need",
        "the manifest may be correct: try again with dcctl retry when the repository answers",
    ),
}
"""The error of each cause that a repository is responsible for, and its remedy."""
