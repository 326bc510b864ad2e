"""What all checkpoints that publish have in common: which files, after which checks, with which login.

They publish what is delivered, so they come last, after whatever verifies it. Each file is digested again
before it is sent. Nothing is reused: they run in every build, and send what the other side does not have.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.manifest.diagnostics import Diagnostic, warning
from dcd.manifest.doc import DataObjectCache, checkpoints_of
from dcd.manifest.objects import Password
from dcd.manifest.secrets import password_text
from dcd.platform.inside import regular_file
from statemachine.errors import CheckpointError
from statemachine.results import Publication
from store.host.secret_files import PREFIX
from store.host.sparse import sha256_of

MODULES = "dcd/checkpoints/publish/"


@dataclass(frozen=True, slots=True)
class Product:
    """A file to publish."""

    name: str
    path: Path
    sha256: str
    size_bytes: int
    kind: str


def is_publishing(mod_path: str) -> bool:
    """Whether the checkpoints of a module publish."""
    return mod_path.replace(".", "/").startswith(MODULES)


def check_place(
    checkpoint: Checkpoint, doc: DataObjectCache, unverified: bool
) -> Iterator[Diagnostic]:
    """Errors for a checkpoint that runs before the products are complete or verified, and a warning when
    nothing verifies them."""
    specs = checkpoints_of(doc)
    names = [spec.name for spec in specs]
    if checkpoint.name not in names:
        return
    at = names.index(checkpoint.name)
    for spec in specs[at + 1 :]:
        if not is_publishing(spec.mod_path):
            yield checkpoint.fault(
                doc,
                None,
                f"{spec.name} runs after it",
                "What is published has to be complete, and verified.",
                f"put {checkpoint.name} last",
            )
            return
    verified = any(spec.checkpoint_class.endswith("VerifyBoot") for spec in specs[:at])
    if not (verified or unverified):
        yield warning(
            checkpoint.argument_place(doc),
            f"{checkpoint.name} publishes what nothing has verified",
            "No checkpoint before it boots the products.",
            'add VerifyBoot before it, or say so: <arg name="unverified">true</arg>',
        )


def check_credentials(
    checkpoint: Checkpoint, doc: DataObjectCache, credentials: str | None
) -> Iterator[Diagnostic]:
    """Errors for credentials that are no reference."""
    if credentials and not credentials.startswith(("/", PREFIX)):
        yield checkpoint.fault(
            doc,
            "credentials",
            "credentials are a reference to a secret, and never the secret itself",
            "The manifest is kept in the event log.",
            f"name a file, /etc/dcd/secrets/NAME, or a variable of the daemon, {PREFIX}NAME",
        )


def secrets_of(credentials: str | None) -> tuple[str, ...]:
    """The secret as `Needs.secrets` names it."""
    return (credentials,) if credentials else ()


def secret_of(credentials: str) -> str:
    """The content of the secret. Raises as `password_text`."""
    by_file = credentials.startswith("/")
    reference = Password(file=credentials) if by_file else Password(env=credentials)
    return password_text(reference, os.environ)


def login_of(credentials: str | None, *, last: bool = False) -> tuple[str, str] | None:
    """User and password, or identity and key, from a secret of the form USER:PASSWORD, at the first or the
    `last` colon. Raises CheckpointError for another form."""
    if credentials is None:
        return None
    secret = secret_of(credentials)
    user, colon, password = secret.rpartition(":") if last else secret.partition(":")
    if not colon:
        raise CheckpointError(
            "the credentials cannot be read",
            f"the secret {credentials} has no colon",
            "write USER:PASSWORD (for S3: ACCESS-KEY:SECRET-KEY) into it, in one line",
        )
    return user, password


def products_of(context: Context, patterns: Sequence[str]) -> list[Product]:
    """The delivered files whose names match one of the patterns (none: all), each digested again. Raises
    CheckpointError when there is none, or one has changed."""
    found = []
    for artifact in context.artifacts:
        if artifact.evidence or not (
            not patterns or any(fnmatchcase(artifact.name, each) for each in patterns)
        ):
            continue
        path = regular_file(context.root, artifact.path)
        if path is None:
            raise CheckpointError(f"{artifact.name} is not in the workspace any more")
        context.report(Report(message=f"checking {artifact.name}"))
        with path.open("rb") as file:
            if sha256_of(file.fileno()) != artifact.sha256:
                raise CheckpointError(f"{artifact.name} has changed since it was delivered")
        found.append(
            Product(artifact.name, path, artifact.sha256, artifact.size_bytes, artifact.format)
        )
    if not found:
        names = ", ".join(each.name for each in context.artifacts) or "none"
        raise CheckpointError(
            "there is nothing to publish",
            f"delivered so far: {names}",
            "correct `files`, or put the checkpoint after those that deliver",
        )
    return found


def record(context: Context, url: str, product: Product, *, uploaded: bool) -> None:
    """Record a file as published."""
    said = "published" if uploaded else "is there already"
    context.report(Report(message=f"{url} {said}"))
    context.publish(Publication(url, product.sha256, product.size_bytes, uploaded))
