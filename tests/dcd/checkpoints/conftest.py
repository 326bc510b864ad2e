"""A bench on which one checkpoint at a time can be tested: a real DOC and a real workspace in tmp_path."""

import hashlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from cli.trees import packed
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.manifest.data_object import Element, Origin
from dcd.manifest.diagnostics import refuse
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects import BUILTIN
from statemachine.errors import CheckpointError
from statemachine.results import Artifact

MANIFEST_PATH = "manifest.xml"

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@example.com"
"""A public key for ssh."""

RECORD = '#!/bin/sh\necho "{name} $*" >> /calls\n{more}'


def doc_of(*elements: str) -> DataObjectCache:
    """A DOC of the distribution `test` that holds these elements. Lines are those in each text."""
    doc = DataObjectCache()

    def locate(element: Element, attribute: str | None = None) -> Origin:
        return Origin(MANIFEST_PATH, element.sourceline or 1)

    distro = BUILTIN.read(etree.fromstring('<distro name="test"/>'), locate)
    doc.volatile.insert_children(distro)
    distro.insert_children(BUILTIN.read(etree.fromstring(text), locate) for text in elements)
    return doc


def archive(directory: Path, at: Path, kind: str = "tree") -> Path:
    """The archive of a directory, as dcctl captures it."""
    with packed(str(directory), kind) as (file, _):
        file.seek(0)
        at.write_bytes(file.read())
    return at


@dataclass
class Bench:
    """A workspace, and what checkpoints told while they ran in it."""

    root: Path
    evidence: Path
    reports: list[Report] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    claims: list[tuple[str, str]] = field(default_factory=list)

    def context(
        self,
        doc: DataObjectCache,
        *,
        inputs: Mapping[str, Path] | None = None,
        external: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Context:
        """The context that the engine would hand to a checkpoint."""
        return Context(
            root=self.root,
            doc=doc,
            evidence=self.evidence,
            inputs=inputs or {},
            report=self.reports.append,
            deliver=self._deliver,
            claim=lambda kind, name: self.claims.append((kind, name)),
            attempt=f"state:build:test:{id(self)}",
            environment=environment or {},
            external=external or {},
        )

    def _deliver(self, artifact: Artifact) -> None:
        """Keep an artifact, with the digest that the commit would fill in."""
        with (self.root / artifact.path).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        assert artifact.sha256 in ("", sha256)
        self.artifacts.append(replace(artifact, sha256=sha256))

    def execute(
        self, checkpoint: Checkpoint, *elements: str, inputs: Mapping[str, Path] | None = None
    ) -> DataObjectCache:
        """Check and execute a checkpoint on a DOC of these elements, as the engine would."""
        doc = doc_of(*elements)
        refuse(checkpoint.check(doc))
        external = checkpoint.external_state(doc)
        checkpoint.execute(self.context(doc, inputs=inputs, external=external))
        return doc

    def execute_and_cancel(self, checkpoint: Checkpoint, context: Context, log: str) -> None:
        """Execute a checkpoint, and cancel it as soon as the evidence has a file `log`."""

        def cancel_once_it_runs() -> None:
            while not (self.evidence / log).exists():
                time.sleep(0.01)
            checkpoint.cancel()

        canceller = threading.Thread(target=cancel_once_it_runs, daemon=True)
        canceller.start()
        try:
            checkpoint.execute(context)
        except CheckpointError:
            canceller.join()
            raise

    @staticmethod
    def empty_doc() -> DataObjectCache:
        """The DOC of a distribution without anything else."""
        return doc_of()

    @staticmethod
    def doc(*elements: str) -> DataObjectCache:
        """The DOC of a distribution that holds these elements."""
        return doc_of(*elements)

    def add_shell(self) -> None:
        """Put the host's /bin/sh and what it needs into the image, so that something can run there."""
        linked = subprocess.run(
            ["ldd", "/bin/sh"], capture_output=True, text=True, check=True
        ).stdout
        for name in ["/bin/sh", *re.findall(r"(/\S+) \(0x", linked)]:
            target = self.image / name.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, target)

    @property
    def image(self) -> Path:
        """The image area."""
        return self.root / "pkg_image"

    def messages(self) -> str:
        """All that was reported, a line each."""
        return "\n".join(report.message for report in self.reports if report.message)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty workspace."""
    root = tmp_path / "workspace"
    for area in ("pkg_image", "boot_archive", "media", "tmp"):
        (root / area).mkdir(parents=True)
    (tmp_path / "evidence").mkdir()
    return Bench(root, tmp_path / "evidence")


@pytest.fixture
def image(bench: Bench, own_mounts: None) -> Path:
    """An image with a shell, accounts, and tools that note how they were called in /calls."""
    bench.add_shell()
    root: Path = bench.image
    for directory in ("etc/default", "usr/sbin", "usr/bin", "var/lib/dbus", "var/lib/apt/lists"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nlive:x:1000:1001::/home:/x\n")
    (root / "etc/group").write_text("root:x:0:\nsudo:x:27:\nlive:x:1001:\n")
    for name in ("useradd", "usermod"):
        add_tool(root, f"usr/sbin/{name}")
    return root


def add_tool(root: Path, path: str, more: str = "") -> None:
    (root / path).write_text(RECORD.format(name=Path(path).name, more=more))
    (root / path).chmod(0o755)


def calls(root: Path) -> list[str]:
    return (root / "calls").read_text().splitlines() if (root / "calls").exists() else []


@pytest.fixture
def stocked(apt_host: Path, mirror: Any) -> Any:
    """A mirror that the host has as its source of the suite `test`."""
    mirror.publish(
        "test", ("app", "Depends: lib\n"), ("lib", ""), ("broken", "Depends: nowhere (>= 2)\n")
    )
    (apt_host / "sources.list").write_text(f"deb [trusted=yes] {mirror.uri} test main\n")
    return mirror
