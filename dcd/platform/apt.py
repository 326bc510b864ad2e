"""The host's own apt: which repositories it has, and what state they are in now.

apt is asked, not imitated: `apt-get indextargets` lists the sources, `apt-helper` fetches with apt's
own transports, proxies and credentials. A `Source` never carries a login in its URI: logins go into
an auth file (apt_auth.conf(5)) that only apt reads, so URIs may be logged, stored and made part of a
key. Everything here may be called from a thread of the daemon, and touches nothing of the host.
"""

import contextlib
import hashlib
import platform
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from dcd.platform.process import ToolFailed, run
from dcd.platform.tools import TOOLS
from statemachine.errors import Unprepared

BACK_OFF_SECONDS = (1.0, 3.0, 7.0)
"""The pauses between tries at a download that failed for a reason that may pass."""

TRANSFER_OPTIONS = ("Acquire::http::Timeout=20", "Acquire::https::Timeout=20", "Acquire::Retries=0")
"""apt's time limits; the retries are ours, because apt does not retry a 503."""

_POCKETS = ("", "-updates", "-security")
_NO_LISTS = ("-o", "Dir::State::lists=/nonexistent")
"""Configured sources can be told without reading megabytes of downloaded lists."""


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
        """What people and keys call it: URI and suite, never a login."""
        return f"{self.uri} {self.suite}"

    @property
    def release_uri(self) -> str:
        """The URI of the directory that holds InRelease."""
        below = self.suite if self.suite.endswith("/") else f"dists/{self.suite}/"
        return f"{self.uri.rstrip('/')}/{below}"


@dataclass(frozen=True, slots=True)
class FetchProblem:
    """Why apt could not download something, in its own words ("503  Service Unavailable")."""

    uri: str
    reason: str

    @property
    def transient(self) -> bool:
        """Whether trying again may help: everything but a definite answer of the server."""
        return re.match(r"4(?!08|29)\d\d\b", self.reason) is None


def sources_for(suite: str, components: Sequence[str] = ()) -> list[Source]:
    """The host's sources for a distribution: those whose suite is `suite`, `suite`-updates or
    `suite`-security. With `components`, those that offer any of them, and then with these ones.
    Raises `Unprepared` when apt has none."""
    host = host_sources()
    wanted = {suite + pocket for pocket in _POCKETS}
    found = [
        Source(s.uri, s.suite, tuple(components) or s.components, s.signed_by, s.trusted, s.login)
        for s in host
        if s.suite in wanted and (not components or set(components) & set(s.components))
    ]
    if not any(source.suite == suite for source in found):
        offered = ", ".join(f"{s.suite} ({' '.join(s.components)})" for s in host) or "none at all"
        raise Unprepared(
            f"this host's apt has no source for suite {suite}"
            + (f" with component {' or '.join(components)}" if components else ""),
            f"the suites that it has: {offered}",
            "name the repository's uri (and signed_by) in the manifest's <repository>, or add the "
            "suite to the apt sources of this host",
        )
    return found


def host_sources() -> list[Source]:
    """All binary package sources of the host's apt configuration, in its order. Raises `Unprepared`
    when apt cannot read it."""
    fields = ("TARGET_OF", "CREATED_BY", "REPO_URI", "RELEASE", "COMPONENT", "SOURCESENTRY")
    columns = "\t".join(f"$({name})" for name in fields)
    argv = ["apt-get", *_NO_LISTS, "indextargets", "--no-release-info", "--format", columns]
    try:
        listing = run(argv, capture=True, timeout_seconds=60).stdout
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
    with contextlib.suppress(OSError):
        codename = platform.freedesktop_os_release().get("VERSION_CODENAME")
        if codename:
            return codename
    raise Unprepared(
        "this host does not say which Debian release it is",
        "os-release has no VERSION_CODENAME",
        'name the suite in the manifest: <source><repository suite="..."/></source>',
    )


def split_login(uri: str) -> tuple[str, tuple[str, str] | None]:
    """A URI without its user and password, and these, if it has any."""
    parts = urlsplit(uri)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return uri, None
    user, _, password = login.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(user), unquote(password))


def source_list(sources: Iterable[Source]) -> str:
    """The sources as a deb822 file (sources.list(5)), without logins."""
    return "\n".join(_stanza(source) for source in sources)


def auth_file(sources: Iterable[Source]) -> str:
    """What apt needs to log in: the host's own auth files, then the logins of the sources."""
    main, parts = configured_paths("Dir::Etc::netrc/f", "Dir::Etc::netrcparts/d")
    files = [Path(main)] if main else []
    if parts:
        files += sorted(Path(parts).glob("*.conf"))
    texts = []
    for file in files:
        # Unreadable for this user: apt run as this user would not see it either.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            texts.append(file.read_text())
    for source in sources:
        if source.login is not None:
            user, password = source.login
            # With its scheme: apt sends a login without encryption only where that is asked for.
            texts.append(f"machine {source.uri} login {user} password {password}\n")
    return "\n".join(texts)


def configured_paths(*options: str) -> list[str]:
    """The paths that the host's apt is configured with, one for each option (as `apt-config shell`
    takes them: `Dir::Etc::netrc/f`); "" for one that is not set."""
    words = [word for number, option in enumerate(options) for word in (f"P{number}", option)]
    output = shlex.split(run(["apt-config", "shell", *words], capture=True).stdout)
    values = dict(word.split("=", 1) for word in output)
    return [values.get(f"P{number}", "") for number in range(len(options))]


def transfer_settings(http_proxy: str = "") -> str:
    """The host's settings for transports and proxies as an apt.conf(5) text, and our limits."""
    dump = run(
        ["apt-config", "dump", "--format", '%F "%v";%n', "Acquire::http", "Acquire::https"],
        capture=True,
    ).stdout
    lines = [line for line in dump.splitlines() if not line.endswith(' "";')]
    lines += ['{} "{}";'.format(*option.split("=")) for option in TRANSFER_OPTIONS]
    if http_proxy:
        lines += [f'Acquire::http::Proxy "{http_proxy}";', f'Acquire::https::Proxy "{http_proxy}";']
    return "\n".join(lines) + "\n"


def fetch_problem(output: str) -> FetchProblem | None:
    """The first failed download that apt's output tells of, or None."""
    found = re.search(r"Failed to fetch (\S+)\s+(.*?)(?: \[IP: [^]]*\])?\s*$", output, re.MULTILINE)
    return FetchProblem(split_login(found[1])[0], found[2]) if found else None


def release_digests(sources: Sequence[Source], http_proxy: str = "") -> dict[str, str]:
    """The sha256 of each source's InRelease (or Release) as its mirror serves it now, by the source's
    name. It changes with every change of the repository. Raises `Unprepared`, after several tries,
    for a mirror that does not answer."""
    if not sources:
        return {}
    with tempfile.TemporaryDirectory(prefix="dcd-apt-") as name:
        directory = Path(name)
        settings = directory / "apt.conf"
        settings.write_text(
            transfer_settings(http_proxy)
            + f'Dir::Etc::netrc "{directory}/auth.conf";\nDir::Etc::netrcparts "/dev/null";\n'
        )
        with (directory / "auth.conf").open("w") as auth:
            Path(auth.name).chmod(0o600)
            auth.write(auth_file(sources))
        targets = [directory / f"{number}" for number in range(len(sources))]
        for target in targets:
            target.mkdir()
            # apt downloads as its own unprivileged user where it can.
            with contextlib.suppress(LookupError, PermissionError):
                shutil.chown(target, "_apt")
        directory.chmod(0o711)
        environment = {"APT_CONFIG": str(settings)}
        with ThreadPoolExecutor(max_workers=8) as pool:
            digests = pool.map(_release_digest, sources, targets, repeat(environment))
            return dict(zip((source.name for source in sources), digests, strict=True))


def _release_digest(source: Source, directory: Path, environment: Mapping[str, str]) -> str:
    target = directory / "InRelease"
    problem = _fetch(source.release_uri + "InRelease", target, environment)
    if problem is not None and problem.reason.startswith("404"):
        problem = _fetch(source.release_uri + "Release", target, environment)
    if problem is not None:
        raise unreachable(problem, source)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def unreachable(problem: FetchProblem, source: Source | None = None) -> Unprepared:
    """The error for a download that failed for good."""
    return Unprepared(
        f"the mirror does not serve {source.name if source else problem.uri}: {problem.reason}",
        f"{problem.uri}: {problem.reason}"
        + (f" (tried {len(BACK_OFF_SECONDS) + 1} times)" if problem.transient else ""),
        "check the address and the suite in the manifest or in this host's apt sources, and that "
        "this host reaches the mirror (proxies are taken from apt's configuration); then try again",
    )


def _fetch(uri: str, target: Path, environment: Mapping[str, str]) -> FetchProblem | None:
    """Download, trying again while that may help. Returns what went wrong in the end, or None."""
    helper = TOOLS["apt-helper"].executable
    pauses = iter(BACK_OFF_SECONDS)
    while True:
        try:
            run(
                [helper, "download-file", uri, target],
                env=environment,
                capture=True,
                merge=True,
                timeout_seconds=120,
            )
            return None
        except ToolFailed as error:
            reason = "no answer within 120 seconds" if error.timed_out else error.output
            problem = fetch_problem(error.output) or FetchProblem(uri, reason)
        pause = next(pauses, None) if problem.transient else None
        if pause is None:
            return problem
        time.sleep(pause)


def _stanza(source: Source) -> str:
    lines = ["Types: deb", f"URIs: {source.uri}", f"Suites: {source.suite}"]
    if source.components:
        lines.append(f"Components: {' '.join(source.components)}")
    if source.signed_by:
        lines.append(f"Signed-By: {source.signed_by}")
    if source.trusted:
        lines.append("Trusted: yes")
    return "\n".join(lines) + "\n"


def _options_of(entry: str) -> dict[str, str]:
    """The options of one entry of the host's sources (keys in lower case), which apt does not list:
    `entry` is as apt names it, FILE:LINE of a one-line file or FILE:STANZA of a deb822 one."""
    file, _, number = entry.rpartition(":")
    text = Path(file).read_text()
    if not file.endswith(".sources"):
        line = text.splitlines()[int(number) - 1]
        options = re.match(r"\s*deb(?:-src)?\s+\[([^]]*)\]", line)
        pairs = (word.split("=", 1) for word in options[1].split()) if options else ()
        return {key.lower(): value.strip('"') for key, value in pairs}
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    stanzas = [part for part in re.split(r"\n[ \t]*\n+", uncommented) if part.strip()]
    fields = re.findall(r"^(\S+?):[ \t]*(.*(?:\n[ \t].*)*)", stanzas[int(number) - 1], re.MULTILINE)
    return {key.lower(): value.strip() for key, value in fields}
