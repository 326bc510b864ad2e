"""The files of a manifest that are captured at submit.

Captured are the sources of a configuration and of what is in one (a directory as a tar archive), the keyring
of a repository (`signed_by`) or its packages, the certificate of a `signing`, and arguments of checkpoints of
type `InputPath`. A relative path begins at the manifest's directory; an absolute one may name any file that
the submitter can read,
through the mapped prefixes. Not captured, since they are in the image: a path that begins with a token
(`{PKG_IMAGE_PATH}/...`), and the source of a `sysconf` configuration below `/etc/svc`, `/lib/svc` or
`/var/svc`, where packages install their SMF profiles. Pure.
"""

from collections.abc import Iterable, Mapping

from dcd.manifest.data_object import DataObject, Origin
from dcd.manifest.diagnostics import Diagnostic, MissingInput, error
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.includes import CapturedFile, Directories
from dcd.manifest.objects import Configuration, Repository, Script, Signing, SshKey, Tree, Unit
from dcd.manifest.tokens import has_token
from statemachine.errors import InvalidManifest
from statemachine.events import InputFile

IN_IMAGE = ("/etc/svc/", "/lib/svc/", "/var/svc/")


class InputsMissing(InvalidManifest):
    """The client must send the `missing` files of the manifest."""

    problem = "inputs-missing"

    def __init__(self, missing: tuple[MissingInput, ...]) -> None:
        paths = [wanted.path for wanted in missing]
        super().__init__(
            f"the manifest names {len(missing)} file{'s' * (len(missing) > 1)} that were not sent",
            "\n".join(paths),
            "upload each as a blob and name it in `files` (dcctl does)",
        )
        self.missing = missing


def is_in_image(configuration: Configuration) -> bool:
    """Whether the configuration's source is a file of the image, which is not captured."""
    source = configuration.source or ""
    return has_token(source) or (configuration.type == "sysconf" and source.startswith(IN_IMAGE))


def files_of(found: DataObject) -> list[tuple[str, str]]:
    """The paths of captured files in an object, each with its kind: `file`, `public_key` (a file that must
    hold no private one), `tree` (a directory, sent as a tar archive), or `packages` (the same of the .deb
    files in a directory)."""
    match found:
        case Configuration():
            named = [(None if is_in_image(found) else found.source, "file")]
        case Unit() | Script():
            named = [(found.source, "file")]
        case SshKey():
            named = [(found.source, "public_key")]
        case Signing():
            named = [(found.certificate, "public_key")]
        case Tree():
            named = [(found.source, "tree")]
        case Repository():
            named = [(found.signed_by, "file"), (found.source, "packages")]
        case _:
            named = []
    return [(path, kind) for path, kind in named if path]


def named_files(
    doc: DataObjectCache,
    arguments: Iterable[tuple[str, Origin | None]],
    directories: Directories,
) -> list[MissingInput]:
    """Every captured file, in the order of the manifest, each written path once. `arguments` are the texts
    of arguments that name files."""
    named = [
        (path, kind, found.origin)
        for found in doc.volatile.get_descendants()
        for path, kind in files_of(found)
    ]
    named += [(text, "file", origin) for text, origin in arguments if not has_token(text)]
    unique: dict[str, MissingInput] = {}
    for written, kind, origin in named:
        place = origin or Origin("", 0)
        path = directories.resolve(written)
        unique.setdefault(written, MissingInput(path, kind, False, place.line, written, place.file))
    return list(unique.values())


def absent(
    named: Iterable[MissingInput], files: Mapping[str, CapturedFile | None]
) -> list[Diagnostic]:
    """Errors for files that the client does not have."""
    return [
        error(
            Origin(wanted.file, wanted.line),
            f"there is no file {wanted.path}, or it cannot be read",
            f"The manifest names it {wanted.written!r}; files are read with the submitter's permissions.",
            "correct the path, or make the file readable",
        )
        for wanted in named
        if wanted.path in files and files[wanted.path] is None
    ]


def captured(
    named: Iterable[MissingInput], files: Mapping[str, CapturedFile | None]
) -> tuple[InputFile, ...]:
    """The captured files by their path in the manifest, by which a running checkpoint finds them and keys
    name them."""
    return tuple(
        InputFile(wanted.written, found.sha256, found.mode)
        for wanted in named
        if (found := files.get(wanted.path)) is not None
    )
