"""Signing what a build has published, for the launcher, which decides what is signed.

The launcher reads the statements and the list of digests from the artifact directory, which only root
changes, and every product that they name. So it signs for this build and its files only; see
`dcd.signing.statements`. Ed25519 signatures are deterministic: signing again after a crash gives the same
bytes. Those of gpg have a time, so an earlier one that is valid is kept. The statements of a build are signed
together, so that each product is read once.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dcd.launcher.orders import Signing
from dcd.signing.gpg import sign_by_gpg
from dcd.signing.keys import can_sign
from dcd.signing.process import sign
from dcd.signing.statements import MOST_BYTES, bundle, check_statement, check_sums
from statemachine.errors import NotFound, PermissionDenied
from statemachine.results import Artifact
from statemachine.statements import BOOT_SUFFIX, PROVENANCE_SUFFIX, REBUILD_SUFFIX, UNNAMED
from store.artifacts import SUMS, Artifacts
from store.host.regular import open_regular, read_regular


@dataclass(frozen=True, slots=True)
class Published:
    """The artifact directory of a build, read for signatures. `digests` has what was read so far."""

    artifacts: Artifacts
    build: str
    digests: dict[str, str]

    def digest_of(self, name: str) -> str:
        """The sha256 of an artifact's file. Raises PermissionDenied without one."""
        if name not in self.digests:
            try:
                with open_regular(self.path(name)) as file:
                    self.digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise PermissionDenied(
                    f"the launcher does not sign for {name[:100]}", f"no such artifact: {error}"
                ) from None
        return self.digests[name]

    def text(self, name: str) -> str | None:
        """The text of an artifact; None without one. Raises PermissionDenied for a file that is no text."""
        try:
            return read_regular(self.path(name), MOST_BYTES).decode("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise PermissionDenied(
                f"the launcher does not sign {name[:100]}",
                f"it is no text: {error}",
                "find out which checkpoint or plug-in delivers a file of that name",
            ) from None

    def path(self, name: str) -> Path:
        """The path of an artifact."""
        return self.artifacts.path(self.build, Artifact(name, "", "", 0, ""))


def signatures(artifacts: Artifacts, signing: Signing, build: str, name: str) -> Iterator[Artifact]:
    """Sign the statements about a build named `name`, and its list of digests. Yields the published
    signatures; none without a key. Raises PermissionDenied for what is no statement about the build's
    artifacts, BadKey, Unprepared, DiskFull."""
    published = Published(artifacts, build, {})
    if signing.key and can_sign():
        yield from _by_key(published, signing, name)
    if signing.gpg_key:
        if (sums := published.text(SUMS)) is None:
            raise NotFound(f"build {build} has no {SUMS}")
        check_sums(sums, published.digest_of)
        earlier = published.path(f"{SUMS}.gpg")
        signature = sign_by_gpg(signing.gpg_home, signing.gpg_key, sums.encode(), earlier)
        yield _written(published, earlier.name, "gpg", signature)


def _by_key(published: Published, signing: Signing, name: str) -> Iterator[Artifact]:
    texts = {
        stem: text
        for suffix in (PROVENANCE_SUFFIX, BOOT_SUFFIX, REBUILD_SUFFIX)
        if (text := published.text(name + suffix)) is not None
        for stem in [(name + suffix).removesuffix(".json")]
    }
    for text in texts.values():
        check_statement(text, published.build, signing.builder or UNNAMED, published.digest_of)
    sums = published.text(SUMS)
    if sums is not None:
        check_sums(sums, published.digest_of)
    done = sign(Path(signing.key), [*texts.values()], [] if sums is None else [sums])
    for stem, envelope in zip(texts, done.envelopes, strict=True):
        text = json.dumps(envelope, sort_keys=True, indent=2) + "\n"
        yield _written(published, f"{stem}.dsse.json", "dsse", text.encode())
        if f"{stem}.json" == name + PROVENANCE_SUFFIX:
            bundled = bundle(envelope, done.key_id).encode()
            yield _written(published, f"{name}.sigstore.json", "sigstore", bundled)
    for signature in done.signatures:
        yield _written(published, f"{SUMS}.sig", "sig", bytes.fromhex(signature))


def _written(published: Published, name: str, kind: str, content: bytes) -> Artifact:
    written = published.artifacts.write(published.build, name, kind, content)
    return replace(written, evidence=True)
