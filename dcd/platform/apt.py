"""The host's own apt: its repositories, proxies and logins; and the files that give apt others.

apt itself lists the sources (`apt-get indextargets`). The URI of a `Source` never contains a login: logins go
into an auth file (apt_auth.conf(5)) that only apt reads, so URIs may be logged, stored and made part of a
key. The functions that write files for apt reject text that the files cannot hold. Nothing here uses the
network or changes the host. The daemon calls it through `dcd.platform.asking`.
"""

import contextlib
import platform
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from statemachine.errors import InvalidManifest, Unprepared
from store.host.process import ToolFailed, run

TRANSFER_OPTIONS = ("Acquire::http::Timeout=20", "Acquire::https::Timeout=20", "Acquire::Retries=0")
"""apt's time limits. dcd retries by itself, because apt does not retry a 503."""

_POCKETS = ("", "-updates", "-security")
_DEBIAN = ("bullseye", "bookworm", "trixie", "forky", "duke", "stable", "testing")
_UNSTABLE = ("sid", "unstable", "experimental")
"""Debian's suites, which every mirror of Debian has; these have no pockets."""
_NO_LISTS = ("-o", "Dir::State::lists=/nonexistent")
"""Listing the configured sources needs none of the downloaded lists, which are large."""


@dataclass(frozen=True, slots=True)
class Source:
    """A binary package repository as apt uses it. `signed_by` is a keyring's path, fingerprints or an
    ASCII-armored key ("": the keys that apt trusts for everything); `login` is (user, password)."""

    uri: str
    suite: str
    components: tuple[str, ...] = ("main",)
    signed_by: str = ""
    trusted: bool = False
    login: tuple[str, str] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The name for people and keys: URI and suite, never a login."""
        return f"{self.uri} {self.suite}"

    @property
    def fetched_uri(self) -> str:
        """The URI that apt fetches from. apt uses packages of a `file:` repository in place, which is
        unreachable inside the image; packages of a `copy:` one go into the cache like all others."""
        return re.sub(r"^file:", "copy:", self.uri)

    @property
    def release_uri(self) -> str:
        """The URI of the directory that holds InRelease."""
        below = self.suite if self.suite.endswith("/") else f"dists/{self.suite}/"
        return f"{self.fetched_uri.rstrip('/')}/{below}"


@dataclass(frozen=True, slots=True)
class HostApt:
    """The configuration of the host's apt: the binary package sources in its order, the settings for
    transports and proxies as an apt.conf(5) text, and the logins as an auth file."""

    sources: tuple[Source, ...]
    settings: str = field(repr=False)
    logins: str = field(repr=False)


def host_apt() -> HostApt:
    """The configuration of the host's apt. Raises `Unprepared` when apt cannot read it."""
    return HostApt(tuple(host_sources()), _host_settings(), _host_logins())


def sources_for(host: Sequence[Source], suite: str, components: Sequence[str] = ()) -> list[Source]:
    """The host's sources for a distribution: those with the suite `suite`, `suite`-updates or
    `suite`-security; with `components`, only those that offer one of them, limited to these components. For
    another suite of Debian on a host of Debian they are the sources of the host's own suite, with the name of
    the other. Raises `Unprepared` when there is none."""
    if all(source.suite != suite for source in host):
        host = [*host, *_of_other_suite(host, suite)]
    wanted = {suite + pocket for pocket in _POCKETS}
    found = [
        replace(s, components=tuple(components) or s.components)
        for s in host
        if s.suite in wanted and (not components or set(components) & set(s.components))
    ]
    if not any(source.suite == suite for source in found):
        offered = ", ".join(f"{s.suite} ({' '.join(s.components)})" for s in host) or "none at all"
        raise Unprepared(
            f"this host's apt has no source for suite {suite}"
            + (f" with component {' or '.join(components)}" if components else ""),
            f"its suites: {offered}",
            "name the repository's uri (and signed_by) in the manifest's <repository>, or add the "
            "suite to the apt sources of this host",
        )
    return found


def _of_other_suite(host: Sequence[Source], suite: str) -> list[Source]:
    """The sources of this host's own suite of Debian, for another suite of Debian. Sources of others, with
    keys of their own, may lack it."""
    own = _os_release().get("VERSION_CODENAME", "")
    if _os_release().get("ID") != "debian" or suite not in (*_DEBIAN, *_UNSTABLE):
        return []
    pockets = ("",) if suite in _UNSTABLE else _POCKETS
    return [
        replace(source, suite=suite + pocket)
        for source in host
        for pocket in pockets
        if source.suite == own + pocket
        and "main" in source.components
        and (not source.signed_by or "debian-archive-" in source.signed_by)
    ]


def host_sources() -> list[Source]:
    """All binary package sources of the host's apt configuration, in its order. Raises `Unprepared`
    when apt cannot read it."""
    fields = ("TARGET_OF", "CREATED_BY", "REPO_URI", "RELEASE", "COMPONENT", "SOURCESENTRY")
    columns = "\t".join(f"$({name})" for name in fields)
    argv = ["apt-get", *_NO_LISTS, "indextargets", "--no-release-info", "--format", columns]
    try:
        listing = _printed(argv)
    except ToolFailed as error:
        raise Unprepared(
            "apt cannot read the sources of this host",
            error.output,
            "correct /etc/apt/sources.list and /etc/apt/sources.list.d",
        ) from error
    components: dict[tuple[str, str, str], dict[str, None]] = {}
    for line in listing.splitlines():
        target_of, created_by, uri, suite, component, entry = line.split("\t")
        if (target_of, created_by) == ("deb", "Packages"):
            components.setdefault((uri, suite, entry), {})[component] = None
    sources = []
    for (uri, suite, entry), names in components.items():
        bare, login = split_login(uri)
        options = _options_of(entry)
        signed_by, trusted = options.get("signed-by", ""), options.get("trusted") == "yes"
        kept = () if suite.endswith("/") else tuple(names)
        sources.append(Source(bare, suite, kept, signed_by, trusted, login))
    return sources


def host_codename() -> str:
    """The codename of the host's distribution ("bookworm"), from os-release(5)."""
    if codename := _os_release().get("VERSION_CODENAME"):
        return codename
    raise Unprepared(
        "the Debian release of this host is unknown",
        "os-release has no VERSION_CODENAME",
        'name the suite in the manifest: <source><repository suite="..."/></source>',
    )


def _os_release() -> dict[str, str]:
    """The fields of this host's os-release(5); none where it has no such file."""
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release()
    return {}


def split_login(uri: str) -> tuple[str, tuple[str, str] | None]:
    """A URI without its login, and the login (user, password), if it has one."""
    parts = urlsplit(uri)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return uri, None
    user, _, password = login.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(user), unquote(password))


def parsed_list(text: str) -> list[Source]:
    """The enabled sources of binary packages in a deb822 file (sources.list(5))."""
    found = []
    for stanza in _stanzas(text):
        if stanza.get("enabled") == "no" or "deb" not in stanza.get("types", "").split():
            continue
        components = tuple(stanza.get("components", "").split())
        keys, trusted = stanza.get("signed-by", ""), stanza.get("trusted") == "yes"
        for uri in stanza.get("uris", "").split():
            bare, login = split_login(uri)
            found += [
                Source(bare, suite, components, keys, trusted, login)
                for suite in stanza.get("suites", "").split()
            ]
    return found


def source_list(sources: Iterable[Source]) -> str:
    """The sources as a deb822 file (sources.list(5)), without logins."""
    return "\n".join(_stanza(source) for source in sources)


def as_written(text: str, sources: Iterable[Source]) -> str:
    """Output of apt, with the URIs as written in the manifest or the host's sources."""
    for source in sources:
        if source.fetched_uri != source.uri:
            path = re.escape(source.uri.removeprefix("file:").strip("/"))
            written = source.uri.rstrip("/").replace("\\", r"\\")
            text = re.sub(rf"copy:/+{path}(?![^/\s'\",;:)])", written, text)
    return text


def auth_file(host_logins: str, sources: Iterable[Source]) -> str:
    """apt's auth file: the host's own logins, then those of the sources."""
    texts = [host_logins]
    for source in sources:
        if source.login is not None:
            user, password = source.login
            # With the scheme: otherwise apt sends a login only over an encrypted connection.
            words = map(word, ("machine", source.uri, "login", user, "password", password))
            texts.append(" ".join(words) + "\n")
    return "\n".join(texts)


def _host_logins() -> str:
    main, parts = configured_paths("Dir::Etc::netrc/f", "Dir::Etc::netrcparts/d")
    files = [Path(main)] if main else []
    if parts:
        files += sorted(Path(parts).glob("*.conf"))
    texts = []
    for file in files:
        # apt, run as this user, could not read such a file either.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            texts.append(file.read_text())
    return "\n".join(texts)


def configured_paths(*options: str) -> list[str]:
    """The paths in the configuration of the host's apt, one for each option (as for `apt-config shell`:
    `Dir::Etc::netrc/f`); "" for one that is not set."""
    words = [word for number, option in enumerate(options) for word in (f"P{number}", option)]
    output = _printed(["apt-config", "shell", *words])
    values = dict(word.split("=", 1) for word in shlex.split(output))
    return [values.get(f"P{number}", "") for number in range(len(options))]


def transfer_settings(host_settings: str, http_proxy: str = "") -> str:
    """The settings for transports and proxies as an apt.conf(5) text: the host's, dcd's limits, and the
    manifest's proxy, which overrides the host's."""
    text = host_settings + settings_text(option.split("=") for option in TRANSFER_OPTIONS)
    if http_proxy:
        text += settings_text(
            (f"Acquire::{scheme}::Proxy", http_proxy) for scheme in ("http", "https")
        )
    return text


def settings_text(settings: Iterable[Sequence[str]]) -> str:
    """Options and their values as an apt.conf(5) text. Raises InvalidManifest for a value with a quotation
    mark or line end, which this language cannot express."""
    lines = []
    for option, value in settings:
        if not re.fullmatch(r'[^"\x00-\x1f\x7f]*', value):
            raise InvalidManifest(
                f"{value[:100]!r} cannot be a setting of apt",
                f"It would be the value of {option}, which must not have quotation marks or line ends.",
                "correct it in the manifest",
            )
        lines.append(f'{option} "{value}";\n')
    return "".join(lines)


def _host_settings() -> str:
    argv = ["apt-config", "dump", "--format", '%F "%v";%n', "Acquire::http", "Acquire::https"]
    dump = _printed(argv)
    return "".join(f"{line}\n" for line in dump.splitlines() if not line.endswith(' "";'))


def _printed(argv: Sequence[str]) -> str:
    return run(argv, capture=True, timeout_seconds=60).stdout


def _stanza(source: Source) -> str:
    lines = ["Types: deb", f"URIs: {word(source.fetched_uri)}", f"Suites: {word(source.suite)}"]
    if source.components:
        lines.append(f"Components: {' '.join(map(word, source.components))}")
    if source.signed_by:
        keys = source.signed_by
        lines.append(f"Signed-By: {word(keys) if keys.startswith('/') else keys}")
    if source.trusted:
        lines.append("Trusted: yes")
    return "\n".join(lines) + "\n"


def word(text: str) -> str:
    """The text, checked to be one word in a file for apt. Raises InvalidManifest."""
    if not re.fullmatch(r"[^\s\x00-\x1f\x7f]+", text):
        raise InvalidManifest(
            f"{text[:100]!r} cannot be written for apt",
            "It must be one word, without blanks and line ends.",
            "correct it in the manifest",
        )
    return text


def _options_of(entry: str) -> dict[str, str]:
    """The options of one entry of the host's sources (keys in lower case), which apt does not list. `entry`
    is apt's name for it: FILE:LINE of a one-line file or FILE:STANZA of a deb822 one."""
    file, _, number = entry.rpartition(":")
    text = Path(file).read_text()
    if not file.endswith(".sources"):
        line = text.splitlines()[int(number) - 1]
        options = re.match(r"\s*deb(?:-src)?\s+\[([^]]*)\]", line)
        pairs = (word.split("=", 1) for word in options[1].split()) if options else ()
        return {key.lower(): value.strip('"') for key, value in pairs}
    return _stanzas(text)[int(number) - 1]


def _stanzas(text: str) -> list[dict[str, str]]:
    """The stanzas of a deb822 file, each with its fields by name in lower case."""
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    parts = [part for part in re.split(r"\n[ \t]*\n+", uncommented) if part.strip()]
    field_of = re.compile(r"^(\S+?):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)
    return [{key.lower(): value.strip() for key, value in field_of.findall(part)} for part in parts]
