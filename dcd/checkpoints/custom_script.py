"""`CustomScript`: a shell command or script of the manifest, for work that no other checkpoint does.

The command runs in the worker's namespaces as root, without network unless the manifest asks for it, and its
output goes to the attempt's log; any exit status but 0 fails the checkpoint. Tokens in the command and
environment variables of the same names hold the paths of the areas. An error names the script's file, or its
place in the manifest: not the temporary path at which it ran.
Source: the original's custom-script; the shells' forms of an error's place, `PATH: LINE: ...` and
`PATH: line LINE: ...`.
"""

import hashlib
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.areas import areas, captured_file, shell_line, substituted
from dcd.checkpoints.interface import CHROOT, MOUNTS, Checkpoint, Context, Needs, Variance
from dcd.checkpoints.media.deliver import deliver_file
from dcd.checkpoints.recorded import recorded_files
from dcd.manifest.data_object import DataObject, Origin
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.forms import (
    CAPABILITY,
    CLIENT_PATH,
    COMMAND,
    DELIVERED,
    DEVICE_NAME,
    HOST_PATH,
    SCRIPT,
    VARIABLE,
    WORKING_DIRECTORY,
)
from dcd.manifest.objects import Args, CheckpointSpec
from dcd.manifest.paths import references, substitute
from dcd.manifest.values import InputPath
from dcd.platform.chroot import chroot
from dcd.platform.host_parts import file_digest
from dcd.platform.inside import regular_file, write
from statemachine.errors import CheckpointError, NotFound, Unprepared
from statemachine.provenance import reserved
from store.artifacts import EVIDENCE_SUMS, SUMS
from store.host.capabilities import NUMBERS
from store.host.process import BASE_ENVIRONMENT, ToolFailed
from store.host.tools import TOOL_PATH

_SHELL = "/bin/sh"
_OWN_INTERPRETER = re.compile(r"#![ \t]*(/\S+[^\n]*)")
_OUTSIDE = ("{BOOT_ARCHIVE}", "{MEDIA_DIR}", "{TMP_DIR}", "{BUILD_DATA}")
"""Tokens of areas that are not visible inside the image."""

_INSTALLING = re.compile(r"\b(apt|apt-get|aptitude|dpkg|linux-image|vmlinuz|live-boot|grub)\b")
"""Words of a command that puts packages or a kernel into the image."""

_SCRIPT_NAME = "custom-script"
_MEANINGS = {126: ": a program could not be executed", 127: ": a command was not found"}
"""Exit statuses of shells with a meaning of their own (POSIX, Shell Command Language, 2.8.2)."""

_CHANGE_DIRECTORY = 'cd -- "$1" && shift && exec "$@"'


@dataclass(frozen=True)
class CustomScript(Checkpoint):
    """Run a command of the manifest.

    Give exactly one of `command`, `text` and `script`. Outside the image it can make and change any file
    of the workspace, use the software of the host and enter the image; further access to the host needs
    an argument.
    """

    DESCRIPTION = "Run a command or script of the manifest"
    VERSION = 1
    TOOLS = ("chroot",)

    command: Annotated[str, COMMAND] | None = None
    """A shell command, in which line breaks count as spaces."""

    shell: Annotated[str, HOST_PATH] | None = None
    """The path of the interpreter. Default: the script's own `#!` line, else /bin/sh."""

    text: Annotated[str, SCRIPT] | None = None
    """A script with its line breaks."""

    script: Annotated[InputPath, CLIENT_PATH] | None = None
    """A script file, captured at the submit; references are not applied to it."""

    chroot: bool = False
    """Whether it runs inside the image, where PKG_IMAGE_PATH is `/`."""

    network: bool = False
    """Whether it has the network of the host. Inside the image it can connect, but not listen."""

    timeout_seconds: float | None = None
    """The time limit in seconds: a command that takes longer is stopped and fails."""

    environment: tuple[Annotated[str, VARIABLE], ...] = ()
    """Environment variables of the command, each as `NAME=VALUE`."""

    working_directory: Annotated[str, WORKING_DIRECTORY] | None = None
    """Its working directory. Default: TMP_DIR, or `/` inside the image."""

    capabilities: tuple[Annotated[str, CAPABILITY], ...] = ()
    """Capabilities that it needs on the host: `SYS_ADMIN` to mount."""

    devices: tuple[Annotated[str, DEVICE_NAME], ...] = ()
    """Devices that it needs on the host: `kvm`; `*` for loop devices."""

    writes: tuple[Annotated[str, HOST_PATH], ...] = ()
    """Directories and files of the host that it writes to."""

    deliver: tuple[Annotated[str, DELIVERED], ...] = ()
    """Files beneath MEDIA_DIR that it makes for delivery, each with a unique name:
    `{MEDIA_DIR}/root.tar`."""

    @property
    def runs_host_code(self) -> bool:
        return not self.chroot

    def variances(self, doc: DataObjectCache) -> Iterator[Variance]:
        yield Variance("a script may read the clock, random numbers or the network", certain=False)

    def needs(self, doc: DataObjectCache) -> Needs:
        if self.chroot:
            return Needs(tools=self.TOOLS, network=self.network, capabilities=MOUNTS)
        return Needs(
            network=self.network,
            capabilities=(*CHROOT, *self.capabilities),
            devices=self.devices,
            writes=tuple(map(Path, self.writes)),
        )

    def provides(self, doc: DataObjectCache) -> products.Provided:
        """A command can make anything; its text shows how likely that is."""
        text = "\n".join(self._strings())
        places = ("PKG_IMAGE_PATH",) if self.chroot else tuple(products.IN_AREAS)
        installs = self.chroot and _INSTALLING.search(text)
        return {
            name: "perhaps" if self.script is not None or installs or place in text else "hardly"
            for place in sorted(places, key=lambda place: place in text)
            for name in products.IN_AREAS[place]
        }

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        given = [part for part in (self.command, self.text, self.script) if part is not None]
        if len(given) != 1 or not str(given[0]).strip():
            yield self.fault(
                doc,
                None,
                "one command, text or script is needed",
                "it has several" if len(given) > 1 else "it has none, or an empty one",
                "write <args>COMMAND</args>",
            )
        if self.timeout_seconds is not None and self.timeout_seconds <= 0:
            yield self.fault(
                doc,
                "timeout_seconds",
                "timeout_seconds must be more than 0",
                "",
                '<arg name="timeout_seconds">600</arg>, or leave it out',
            )
        yield from self._check_rights(doc)
        yield from self._check_deliveries(doc)
        if self.chroot:
            used = {token for token in _OUTSIDE if any(token in part for part in self._strings())}
            if used:
                yield self.fault(
                    doc,
                    "chroot",
                    f"{', '.join(sorted(used))} is not inside the image",
                    "with chroot the command sees the image area only",
                    "leave out chroot, or use {PKG_IMAGE_PATH} only",
                )

    def _check_deliveries(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        if self.chroot and self.deliver:
            yield self.fault(
                doc,
                "deliver",
                "a command inside the image can deliver nothing",
                "it does not see MEDIA_DIR, where files to deliver are made",
                "leave out chroot, or deliver the file from a command outside the image",
            )
        names = [Path(item).name for item in self.deliver]
        for item, text in enumerate(self.deliver):
            own = distro(doc).name
            if names[item] in (SUMS, EVIDENCE_SUMS, f"{own}.xml", *reserved(own)):
                why = "every build delivers a file of that name by itself"
            elif names.index(names[item]) != item:
                why = "another file is delivered under the same name"
            else:
                continue
            yield self.fault(
                doc,
                "deliver",
                f"{text!r} cannot be delivered",
                why,
                "<argitem>{MEDIA_DIR}/root.tar</argitem>",
                item,
            )

    def _check_rights(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        if self.chroot and (self.capabilities or self.devices or self.writes):
            yield self.fault(
                doc,
                "chroot",
                "a command inside the image gets no permissions on the host",
                "it has capabilities, devices or writes",
                "leave them out, or leave out chroot",
            )
        for item, capability in enumerate(self.capabilities):
            if capability not in NUMBERS:
                yield self.fault(
                    doc,
                    "capabilities",
                    f"{capability!r} is not a capability",
                    "",
                    "write names of capabilities(7) without CAP_, such as SYS_ADMIN",
                    item,
                )
        for item, path in enumerate(self.writes):
            if not path.startswith("/"):
                yield self.fault(
                    doc,
                    "writes",
                    f"writes {path!r}, which is not an absolute path",
                    "",
                    "name a file or directory of the host; the workspace needs none",
                    item,
                )

    def external_state(self, doc: DataObjectCache) -> Mapping[str, str]:
        """The interpreters on the host, and the values of `%{path}`s in the manifest. (Inside the image, the
        layer below brings the interpreter.)"""
        state: dict[str, str] = {}
        if not self.chroot:
            for program in self._interpreters():
                try:
                    state[f"interpreter {program}"] = file_digest(program)
                except Unprepared as error:
                    raise Unprepared(
                        f"{self.name}: this host has no {program}",
                        error.details,
                        "install it, or name another shell in the manifest",
                    ) from error
        for path in sorted({path for part in self._strings() for path in references(part)}):
            try:
                value = substitute(doc.volatile, f"%{{{path.removeprefix('/volatile')}}}")
            except NotFound:
                continue  # An earlier checkpoint puts it there; its key is chained already.
            state[f"%{{{path}}}"] = hashlib.sha256(value.encode()).hexdigest()
        return state

    def _interpreters(self) -> list[Path]:
        """The programs of the host that read the command: the shell, or those of the text's `#!` line."""
        own = _OWN_INTERPRETER.match(self.text.lstrip("\n")) if self.text else None
        if self.shell is not None or own is None:
            return [Path(self.shell or _SHELL)]
        program, *words = own[1].split()
        if Path(program).name != "env":
            return [Path(program)]
        # Source: env(1), -S.
        name = next((word for word in words if not word.startswith("-") and "=" not in word), "")
        found = shutil.which(name, path=TOOL_PATH) if name else None
        return [Path(program), *([Path(found)] if found else [])]

    def execute(self, context: Context) -> None:
        try:
            (self._run_inside if self.chroot else self._run_on_host)(context)
        except ToolFailed as failure:
            raise self._failed(failure, context) from failure

    def _failed(self, failure: ToolFailed, context: Context) -> CheckpointError:
        """The error, in terms of the manifest."""
        at = None if self.script is not None else self._place_of_text(context.doc)
        file = str(self.script) if self.script is not None else at.file if at else "text"
        name = "the command" if self.command is not None else "the script"
        if at is not None:
            name = f"{name} at {at}"
        elif self.command is None:
            name = f"{name} {file}"
        status = failure.exit_status
        if failure.timed_out:
            brief = f"{name} {failure.brief.partition(' ')[2]}"
        elif status < 0:
            brief = f"{name} was killed by {signal.Signals(-status).name}"
        else:
            brief = f"{name} failed with exit status {status}{_MEANINGS.get(status, '')}"
        before = at.line - 1 if at is not None else 0
        # The longer path first: it ends in the other.
        place = rf"({re.escape(str(context.tmp))}|/run)/{_SCRIPT_NAME}"
        output = re.sub(
            rf"{place}: (line )?(\d+)(?=:)",
            lambda found: f"{file} line {int(found[3]) + before}",
            failure.output,
        )
        output = re.sub(place, lambda _: file, output)
        return CheckpointError(
            brief, f"its last lines:\n{output}" if output else "it printed nothing"
        )

    def _place_of_text(self, doc: DataObjectCache) -> Origin | None:
        """The place of the first line of the command or text in the manifest."""
        name = "text" if self.text is not None else "command"
        for spec in doc.volatile.get_descendants(self.name, CheckpointSpec, max_count=1):
            for given in spec.get_descendants(class_type=DataObject):
                if getattr(given, "name", None) == name or isinstance(given, Args):
                    return given.place_of("text")
        return None

    def _run_on_host(self, context: Context) -> None:
        # A command on the host may change any file.
        context.made.update(recorded_files(context))
        tokens = areas(context)
        directory = self._directory(context, tokens) or str(context.tmp)
        context.run(
            self._argv(context, tokens, context.tmp / _SCRIPT_NAME, None),
            env=self._environment(context, tokens),
            cwd=Path(context.tmp, directory),
            timeout_seconds=self.timeout_seconds,
        )
        for item in self.deliver:
            file = regular_file(context.media, item.removeprefix("{MEDIA_DIR}/"))
            if file is None:
                raise CheckpointError(
                    f"{self.name} made no file {item} to deliver",
                    "it does not exist, or is no regular file",
                    "correct the command, or the argument deliver",
                )
            deliver_file(context, file, file.suffix.removeprefix(".") or "file")

    def _run_inside(self, context: Context) -> None:
        tokens = {"PKG_IMAGE_PATH": Path("/")}
        directory = self._directory(context, tokens) or "/"
        with chroot(context.pkg_image, network=self.network) as inside:
            # While programs run in the image, /run is not part of it.
            place = write(context.pkg_image, f"run/{_SCRIPT_NAME}", "")
            argv = self._argv(context, tokens, place, f"/run/{_SCRIPT_NAME}")
            inside.run(
                [_SHELL, "-c", _CHANGE_DIRECTORY, "sh", directory, *argv],
                env={**context.environment, **self._environment(context, tokens)},
                timeout_seconds=self.timeout_seconds,
            )

    def _directory(self, context: Context, tokens: Mapping[str, Path]) -> str:
        return substituted(self.working_directory or "", context.doc, tokens)

    def _environment(self, context: Context, tokens: Mapping[str, Path]) -> dict[str, str]:
        given = (substituted(text, context.doc, tokens) for text in self.environment)
        paths = {token: str(path) for token, path in tokens.items()}
        return {**BASE_ENVIRONMENT, **paths, **dict(one.split("=", 1) for one in given)}

    def _argv(
        self, context: Context, tokens: Mapping[str, Path], place: Path, seen_as: str | None
    ) -> list[str]:
        """The command line. A script is put at `place`; the command may see that as `seen_as`."""
        if self.command is not None:
            line = shell_line(" ".join(self.command.split("\n")).strip(), context.doc, tokens)
            return [self.shell or _SHELL, "-c", line]
        if self.text is not None:
            place.write_text(substituted(self.text, context.doc, tokens).lstrip("\n"))
        else:
            shutil.copyfile(captured_file(context.inputs, str(self.script)), place)
        place.chmod(0o700)
        path = seen_as or str(place)
        if self.shell is None and place.read_bytes().startswith(b"#!"):
            return [path]
        return [self.shell or _SHELL, path]

    def _strings(self) -> list[str]:
        """The texts in which references are replaced."""
        parts = (self.command, self.text, self.working_directory, *self.environment)
        return [part for part in parts if part is not None]
