"""`PublishDirectory`: products in a directory of this host, or of another by ssh.

Each set of products gets a directory that is named for its content, DESTINATION/DIGEST, and a link
DESTINATION/LINK leads to the current one. rsync fills DESTINATION/.DIGEST.part, and keeps there what an
interrupted transfer has sent; the digests are checked where the files are; then the directory gets its name,
and the link is replaced by one rename. Readers see the old set or the new one, whole.
Source: rsync(1), ssh(1), rename(2).
"""

import hashlib
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.publish.parts import (
    Product,
    check_credentials,
    check_place,
    products_of,
    record,
    secret_of,
    secrets_of,
)
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import ENTRY, LINE
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed

SUMS = "SHA256SUMS"
_REMOTE = re.compile(r"((?:[a-z_][a-z0-9_.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*)(?::(\d{1,5}))?:(/.*)")


@dataclass(frozen=True)
class PublishDirectory(Checkpoint):
    """Put the products into a directory of this host, or of another by ssh.

    It runs after everything else, in every build. A link leads to the newest products, and changes at once.
    """

    DESCRIPTION = "Put the products into a directory"
    EXPECTED_SECONDS = 20.0
    PROVIDES = ()
    REUSABLE = False
    TOOLS = ("rsync", "ssh")

    destination: Annotated[str, LINE]
    """The directory: `/srv/images/web`, which the setting `publish_directories` allows, or
    `user@host.example.org:/srv/images/web`, with a port as `host:2222:/srv`."""

    link: Annotated[str, LINE] = "latest"
    """The name of the link to the newest products."""

    files: tuple[Annotated[str, ENTRY], ...] = ()
    """Patterns of the names of the products, as `*.iso`; by default all."""

    credentials: Annotated[str, LINE] | None = None
    """The secret with the private key for ssh: a file below /etc/dcd/secrets, or a variable of the daemon
    (DCD_SECRET_...)."""

    host_key: Annotated[str, LINE] | None = None
    """The public key of the other host, as ssh-keyscan(1) prints it without the name: `ssh-ed25519 AAAA`."""

    timeout_seconds: float = 60.0
    """How long the other host may be silent."""

    unverified: bool = False
    """Nothing has to verify the products before."""

    def needs(self, doc: DataObjectCache) -> Needs:
        if self._remote is None:
            return Needs(tools=("rsync",), writes=(Path(self.destination),), contents=True)
        return Needs(
            tools=self.TOOLS, network=True, secrets=secrets_of(self.credentials), contents=True
        )

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_place(self, doc, self.unverified)
        yield from check_credentials(self, doc, self.credentials)
        remote = self._remote
        if remote is None and not re.fullmatch(r"/[^:]*", self.destination):
            yield self.fault(
                doc,
                "destination",
                f"{self.destination!r} is no directory to publish to",
                "",
                "/srv/images/NAME, or USER@HOST:/srv/images/NAME",
            )
        if ".." in self.destination.split("/"):
            yield self.fault(doc, "destination", "a directory to publish to has no .. in it")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", self.link):
            yield self.fault(doc, "link", f"{self.link!r} is no name for a link", "", "latest")
        if remote is not None and (self.credentials is None or self.host_key is None):
            yield self.fault(
                doc,
                "destination",
                "ssh needs credentials and a host_key",
                "They say who logs in, and that no other host takes the products.",
                '<arg name="credentials">/etc/dcd/secrets/KEY</arg> '
                '<arg name="host_key">ssh-ed25519 AAAA...</arg>',
            )

    def execute(self, context: Context) -> None:
        products = products_of(context, self.files)
        text = "".join(
            f"{each.sha256}  {each.name}\n" for each in sorted(products, key=lambda one: one.name)
        )
        digest = hashlib.sha256(text.encode()).hexdigest()
        name, directory = digest[:16], self._directory
        with self._shell(context) as (shell, ssh):
            script = (
                f"cd {shlex.quote(directory)} 2>/dev/null && cd {name} 2>/dev/null && "
                f"sha256sum --status -c {SUMS} 2>/dev/null && echo whole; "
                f"readlink {shlex.quote(f'{directory}/{self.link}')}; true"
            )
            said = self._run(context, [*shell, script]).split("\n")
            whole, current = "whole" in said, name in said
            if not whole:
                self._send(context, products, text, name, shell, ssh)
            if not (whole and current):
                self._run(context, [*shell, self._switch(name)])
        listed = Product(SUMS, Path(), digest, len(text), "text")
        place = self.destination.rstrip("/")
        for each in (*products, listed):
            record(context, f"{place}/{name}/{each.name}", each, uploaded=not whole)
        context.report(Report(message=f"{place}/{self.link} leads to {name}"))
        context.report(Report(fraction=1.0))

    def _send(
        self,
        context: Context,
        products: list[Product],
        text: str,
        name: str,
        shell: list[str],
        ssh: list[str],
    ) -> None:
        """Put the files into the hidden directory, and check them there."""
        part = f"{self._directory}/.{name}.part"
        stage = context.tmp / "published"
        stage.mkdir()
        for product in products:
            (stage / product.name).symlink_to(product.path)
        (stage / SUMS).write_text(text)
        self._run(context, [*shell, f"umask 022 && mkdir -p {shlex.quote(part)}"])
        target = part if self._remote is None else f"{self._remote[0]}:{part}"
        options = ["--recursive", "--copy-links", "--checksum", "--partial", "--chmod=D755,F644"]
        options += ["--link-dest", f"../{self.link}"]
        if ssh:
            options += [
                "--rsh",
                shlex.join(ssh),
                f"--timeout={max(1, round(self.timeout_seconds))}",
            ]
        self._run(context, ["rsync", *options, f"{stage}/", f"{target}/"])
        checked = f"cd {shlex.quote(part)} && sha256sum --quiet -c {SUMS}"
        try:
            self._run(context, [*shell, checked])
        finally:
            shutil.rmtree(stage)

    def _switch(self, name: str) -> str:
        """The commands that give the directory its name and replace the link."""
        return " && ".join(
            (
                f"cd {shlex.quote(self._directory)}",
                f"if [ -d .{name}.part ]; then rm -rf {name} && mv -T .{name}.part {name}; fi",
                f"ln -sfn {name} .{self.link}.new",
                f"mv -T .{self.link}.new {self.link}",
            )
        )

    @property
    def _remote(self) -> tuple[str, str, str] | None:
        """User and host, port, and directory; None for one of this host."""
        found = _REMOTE.fullmatch(self.destination)
        return None if found is None else (found[1], found[2] or "22", found[3])

    @property
    def _directory(self) -> str:
        remote = self._remote
        return (self.destination if remote is None else remote[2]).rstrip("/") or "/"

    @contextmanager
    def _shell(self, context: Context) -> Iterator[tuple[list[str], list[str]]]:
        """The beginning of a command that runs a script at the destination, and of ssh there ([]: none)."""
        remote = self._remote
        if remote is None:
            yield ["sh", "-c"], []
            return
        host, port, _ = remote
        assert self.credentials is not None
        # Not in /tmp, which a portable worker has in common with the users of the host.
        login = context.tmp / "ssh"
        login.mkdir(mode=0o700)
        try:
            key, known = login / "key", login / "known_hosts"
            key.touch(0o600)
            key.write_text(f"{secret_of(self.credentials)}\n")
            known.write_text(f"dcd {self.host_key}\n")
            settings = {
                "BatchMode": "yes",
                "ConnectTimeout": f"{max(1, round(self.timeout_seconds))}",
                "GlobalKnownHostsFile": "/dev/null",
                "HostKeyAlias": "dcd",
                "IdentitiesOnly": "yes",
                "LogLevel": "ERROR",
                "ServerAliveCountMax": "1",
                "ServerAliveInterval": f"{max(1, round(self.timeout_seconds))}",
                "StrictHostKeyChecking": "yes",
                "UserKnownHostsFile": f'"{known}"',
            }
            options = [
                part for name, value in settings.items() for part in ("-o", f"{name}={value}")
            ]
            ssh = ["ssh", "-F", "/dev/null", *options, "-i", f"{key}", "-p", port]
            yield [*ssh, host, "--"], ssh
        finally:
            shutil.rmtree(login)

    def _run(self, context: Context, command: list[str]) -> str:
        try:
            return context.run(command, capture=True).stdout
        except ToolFailed as failure:
            raise self._explained(failure) from failure

    def _explained(self, failure: ToolFailed) -> CheckpointError:
        said = failure.output
        kept = "what was sent stays in a hidden directory, and dcctl retry continues with the rest"
        if "Permission denied (" in said:
            return CheckpointError(
                f"{self.destination} refuses the credentials",
                said,
                "put the public key of the secret into authorized_keys of its user there",
            )
        if "Host key verification failed" in said:
            return CheckpointError(
                f"{self.destination} is not the host with that host_key",
                said,
                "compare host_key with the output of ssh-keyscan, by a way that you trust",
            )
        return CheckpointError(f"publishing to {self.destination} failed", said, kept)
