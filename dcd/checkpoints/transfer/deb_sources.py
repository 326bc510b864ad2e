"""The repositories of a transfer of Debian packages: those of the manifest, and those that the image keeps.

Two entries of the manifest for one URI and suite are one repository with the components of both, and are
refused when they name different keyrings, which apt does not allow. The image keeps as its own apt sources
those that its users can reach: none on the build host.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.objects.software import Repository, Software
from dcd.platform.apt import (
    Source,
    host_codename,
    parsed_list,
    source_list,
    sources_for,
    split_login,
)
from dcd.platform.host_parts import SUFFIX, file_digest
from dcd.platform.inside import make_directory, read, resolve, write
from statemachine.errors import InvalidManifest
from statemachine.keys import digest

SOURCES_FILE = "etc/apt/sources.list.d/dcd.sources"
_KEYRINGS = "etc/apt/keyrings"
_LOCAL_SCHEMES = ("file", "copy", "cdrom")


def check_repositories(software: Software) -> Iterator[Diagnostic]:
    """Errors for repositories that contain a login, and for two that differ only in their keyrings."""
    seen: dict[tuple[str, str], Repository] = {}
    for repository in software.get_descendants(class_type=Repository):
        if repository.source:
            yield from _check_directory(repository)
            continue
        if repository.uri and split_login(repository.uri)[1] is not None:
            # The event log keeps the manifest permanently.
            yield error(
                repository.place_of("uri"),
                "a repository's uri must not hold a login",
                "",
                "put it into the build host's /etc/apt/auth.conf.d/NAME.conf: "
                "machine HOST/PATH login USER password PASSWORD",
            )
        place = _place(Source(repository.uri or "", repository.suite or ""))
        first = seen.setdefault(place, repository)
        if first.signed_by != repository.signed_by:
            yield error(
                repository.place_of("signed_by") or repository.origin,
                "this repository is listed twice, with different keyrings",
                f"The other entry is {first.origin}. apt takes one keyring for a repository.",
                "name the same signed_by in both: one file may hold several keys",
            )


def _check_directory(repository: Repository) -> Iterator[Diagnostic]:
    beside = [name for name in ("uri", "suite", "signed_by") if getattr(repository, name)]
    if beside:
        yield error(
            repository.place_of(beside[0]),
            f"a directory of packages has no {beside[0]}",
            "dcd makes its index; the packages are trusted, since they come with the manifest.",
            f'<repository source="{repository.source}"/>',
        )


def sources_of(software: Software, host: Sequence[Source]) -> list[Source]:
    """The sources that the manifest names, in order, without directories; those of the host where it names
    none."""
    repositories = [
        each for each in software.get_descendants(class_type=Repository) if not each.source
    ]
    if not repositories:
        return sources_for(host, host_codename())
    sources: list[Source] = []
    for repository in repositories:
        suite = repository.suite or host_codename()
        components = tuple(repository.components.split())
        if repository.uri:
            kept = () if suite.endswith("/") else components
            found = [Source(repository.uri, suite, kept)]
        else:
            found = sources_for(host, suite, components)
        if repository.signed_by:
            found = [replace(source, signed_by=repository.signed_by) for source in found]
        sources += found
    return combined(sources)


def combined(sources: Sequence[Source]) -> list[Source]:
    """The sources with each repository once, with the components of all that name it. Raises
    InvalidManifest when it is to have two keyrings."""
    found: dict[tuple[str, str], Source] = {}
    for source in sources:
        first = found.setdefault(_place(source), source)
        if first.signed_by != source.signed_by:
            raise InvalidManifest(
                f"the repository {source.name} has two keyrings",
                f"{first.signed_by or 'those of apt'} and {source.signed_by or 'those of apt'}; apt takes "
                "one keyring for a repository",
                "name the same signed_by for all entries of this repository",
            )
        components = tuple(dict.fromkeys((*first.components, *source.components)))
        found[_place(source)] = replace(
            first,
            components=components,
            trusted=first.trusted or source.trusted,
            login=first.login or source.login,
        )
    return list(found.values())


def host_ingredients(
    software: Software,
    sources: Sequence[Source],
    captured_keyrings: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The settings of the sources that come from this host's apt, with their keyrings, for keys.
    `captured_keyrings` are digests of those that a locked build takes in place of the host's, by path."""
    repositories = software.get_descendants(class_type=Repository)
    named = {
        _place(Source(each.uri, each.suite or host_codename())) for each in repositories if each.uri
    }
    captured = {repository.signed_by for repository in repositories}
    found = {}
    for source in sources:
        if _place(source) in named:
            continue
        keyring = source.signed_by
        if keyring.startswith("/") and keyring not in captured:
            own = (captured_keyrings or {}).get(keyring)
            keyring = f"{keyring} {own or file_digest(Path(keyring))}"
        state = digest([list(source.components), keyring, source.trusted])
        found[f"source {source.name}{SUFFIX}"] = state
    return found


def with_keyrings(
    sources: Sequence[Source], inputs: Mapping[str, Path], directory: Path
) -> list[Source]:
    """The sources with keyrings that apt can read: the captured ones of the manifest are written to
    `directory`, each under a unique name. apt recognizes a keyring's format by its name."""
    directory.mkdir(exist_ok=True)
    written: dict[str, Path] = {}
    for path in dict.fromkeys(source.signed_by for source in sources):
        if path not in inputs:
            continue
        content = inputs[path].read_bytes()
        suffix = ".asc" if content.startswith(b"-----BEGIN") else ".gpg"
        taken = {each.name for each in written.values()}
        keyring = directory / _free_name(PurePosixPath(path).stem, suffix, taken)
        keyring.write_bytes(content)
        keyring.chmod(0o644)
        written[path] = keyring
    return [
        replace(source, signed_by=str(written[source.signed_by]))
        if source.signed_by in written
        else source
        for source in sources
    ]


def leave_sources(
    root: Path, sources: Sequence[Source], keyrings: Mapping[str, Path] | None = None
) -> tuple[list[Source], list[Source]]:
    """Give the sources to the image's apt, beside those of an earlier transfer. Returns the kept ones, and
    those that are left out since they are on the build host. `keyrings` are copies of keyrings by the paths
    that the sources name."""
    kept = [source for source in sources if not is_on_this_host(source)]
    left_out = [source for source in sources if source not in kept]
    text = read(root, SOURCES_FILE) or ""
    earlier = parsed_list(text)
    taken = {_place(source): source.signed_by for source in earlier}
    ready = []
    for source in kept:
        known = taken.get(_place(source))
        keyring = _keyring_of(root, source, keyrings or {}) if known is None else known
        ready.append(replace(source, signed_by=keyring, login=None))
    if text and text != source_list(earlier):
        # It was edited since: its text stays.
        new = [source for source in ready if _place(source) not in taken]
        text = "\n".join([text, source_list(new)]) if new else text
    else:
        text = source_list(combined([*earlier, *ready]))
    if text:
        write(root, SOURCES_FILE, text)
    return kept, left_out


def is_on_this_host(source: Source) -> bool:
    """Whether the source is only valid on the build host: a path, or a loopback address."""
    parts = urlsplit(source.uri)
    if parts.scheme in _LOCAL_SCHEMES or parts.scheme.partition("+")[2] in _LOCAL_SCHEMES:
        return True
    name = (parts.hostname or "").rstrip(".")
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _keyring_of(root: Path, source: Source, keyrings: Mapping[str, Path]) -> str:
    """The source's keyring in the image, where it is written unless it exists."""
    keyring = source.signed_by
    if not keyring.startswith("/"):
        return keyring
    if _content(root, keyring) is not None:
        # It belongs to a package, which keeps it up to date.
        return keyring
    content = keyrings.get(keyring, Path(keyring)).read_bytes()
    name = PurePosixPath(keyring)
    taken = {
        each.name
        for each in make_directory(root, _KEYRINGS).iterdir()
        if _content(root, f"{_KEYRINGS}/{each.name}") != content
    }
    path = f"{_KEYRINGS}/{_free_name(name.stem, name.suffix, taken)}"
    write(root, path, content)
    return f"/{path}"


def _content(root: Path, path: str) -> bytes | None:
    file = resolve(root, path)
    return file.read_bytes() if file.is_file() else None


def _free_name(stem: str, suffix: str, taken: set[str]) -> str:
    number = 1
    while (name := f"{stem}-{number}{suffix}" if number > 1 else f"{stem}{suffix}") in taken:
        number += 1
    return name


def _bare(uri: str) -> str:
    return uri.rstrip("/")


def _place(source: Source) -> tuple[str, str]:
    return _bare(source.fetched_uri), source.suite
