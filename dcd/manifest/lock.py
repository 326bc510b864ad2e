"""Locks: what the packages of a manifest resolved to, as a document that a client keeps beside it.

A lock names each package by version and digest, each repository by the digests of its release file and its
indexes, and what the manifest asked for when the lock was made. A locked build uses exactly these packages.
Of the host that made it, a lock has the mirrors and keyrings that the manifest leaves to its apt, and nothing
else, so its text is the same for the same resolution. A lock comes from a client: it is bounded, strictly
typed, and trusted for nothing but what it refuses. A reader refuses another `version`.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Word = Annotated[str, Meta(max_length=512)]
Address = Annotated[str, Meta(max_length=4096)]
Size = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a lock: an unknown field is an error."""


class LockedPackage(_Part, frozen=True):
    """A package: the digest and the size are of its file, `uri` is where that was downloaded."""

    name: Word
    version: Word
    architecture: Word
    sha256: Digest
    size_bytes: Size
    uri: Address


class LockedFile(_Part, frozen=True):
    """A file of a repository that the packages were chosen by: a release file, or an index of packages, by
    its path in the repository and the digest of its uncompressed content."""

    uri: Address
    suite: Word
    path: Address
    sha256: Digest


class LockedRepository(_Part, frozen=True):
    """How apt checked a repository: `trusted` without a signature, with the key or the fingerprints
    `signed_by`, or with the keyrings of these digests."""

    uri: Address
    suite: Word
    trusted: bool = False
    signed_by: Annotated[str, Meta(max_length=65_536)] = ""
    keyrings: Annotated[tuple[Digest, ...], Meta(max_length=1_000)] = ()


class LockedTransfer(_Part, frozen=True):
    """What one checkpoint resolved. `asks` is what the manifest asked for, in a line each. Locks of version
    0.1.0 have no `repositories`."""

    checkpoint: Annotated[str, Meta(min_length=1, max_length=128)]
    architecture: Word
    asks: Annotated[tuple[Address, ...], Meta(max_length=20_000)] = ()
    files: Annotated[tuple[LockedFile, ...], Meta(max_length=2_000)] = ()
    repositories: Annotated[tuple[LockedRepository, ...], Meta(max_length=1_000)] = ()
    packages: Annotated[tuple[LockedPackage, ...], Meta(max_length=50_000)] = ()

    @property
    def releases(self) -> dict[str, str]:
        """The digest of each repository's release file, by the repository's name: URI and suite."""
        return {
            f"{file.uri} {file.suite}": file.sha256
            for file in self.files
            if file.path in ("InRelease", "Release")
        }

    @property
    def checked(self) -> dict[str, LockedRepository]:
        """How each repository was checked, by its name."""
        return {f"{each.uri} {each.suite}": each for each in self.repositories}


class Lock(_Part, frozen=True):
    """A lock of a manifest, for its distribution's name, with the parameters and profiles that it was made
    with, without secret ones."""

    format: Literal["dcd-lock"]
    version: Literal[1]
    name: Word
    parameters: Annotated[dict[Word, Address], Meta(max_length=1_000)]
    profiles: Annotated[tuple[Word, ...], Meta(max_length=100)]
    transfers: Annotated[tuple[LockedTransfer, ...], Meta(min_length=1, max_length=64)]
