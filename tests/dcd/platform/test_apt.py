"""What dcd learns from the host's apt: its repositories, and the state that their mirrors are in."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from dcd.platform.apt import (
    Source,
    auth_file,
    host_apt,
    host_sources,
    source_list,
    sources_for,
    split_login,
    transfer_settings,
)
from dcd.platform.apt_release import FetchProblem, fetch_problem
from dcd.platform.asking import ask_releases
from statemachine.errors import Unprepared

pytestmark = pytest.mark.slow

ONE_LINE = """\
# deb http://example.org/commented bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/one.gpg] http://example.org/debian bookworm main contrib
deb-src [signed-by=/usr/share/keyrings/one.gpg] http://example.org/debian bookworm main
deb http://user:p%40ss@example.org/private bookworm-security main
deb [trusted=yes] http://example.org/flat ./
"""
DEB822 = """\
# The first stanza is switched off.
Enabled: no
Types: deb
URIs: http://example.org/off
Suites: bookworm
Components: main

Types: deb deb-src
URIs: http://example.org/vendor
Suites: stable bookworm
Components: stable
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abcd
 -----END PGP PUBLIC KEY BLOCK-----
"""


def test_one_line_sources_come_with_their_options(apt_host: Path) -> None:
    (apt_host / "sources.list").write_text(ONE_LINE)
    assert host_sources() == [
        Source(
            "http://example.org/debian/",
            "bookworm",
            ("main", "contrib"),
            "/usr/share/keyrings/one.gpg",
        ),
        Source(
            "http://example.org/private/",
            "bookworm-security",
            ("main",),
            login=("user", "p@ss"),
        ),
        Source("http://example.org/flat/", "./", (), trusted=True),
    ]


def test_deb822_sources_come_with_an_embedded_key(apt_host: Path) -> None:
    (apt_host / "sources.list.d/vendor.sources").write_text(DEB822)
    stable, bookworm = host_sources()
    assert (stable.suite, bookworm.suite) == ("stable", "bookworm")
    assert bookworm.signed_by.startswith("-----BEGIN PGP")
    assert "\n .\n abcd\n" in source_list([bookworm])


def test_sources_for_a_suite_are_its_pockets_with_a_wanted_component(apt_host: Path) -> None:
    (apt_host / "sources.list").write_text(ONE_LINE)
    (apt_host / "sources.list.d/vendor.sources").write_text(DEB822)
    found = sources_for(host_sources(), "bookworm", ["main", "non-free"])
    assert [source.name for source in found] == [
        "http://example.org/debian/ bookworm",
        "http://example.org/private/ bookworm-security",
    ]
    assert {source.components for source in found} == {("main", "non-free")}


KEYS = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
DEBIAN = f"""\
deb [{KEYS}] http://example.org/debian bookworm main
deb [{KEYS}] http://example.org/debian bookworm-updates main
deb [{KEYS}] http://example.org/security bookworm-security main
deb [signed-by=/usr/share/keyrings/vendor.gpg] http://example.org/vendor bookworm main
"""


@pytest.mark.parametrize(
    ("suite", "names"),
    [
        ("trixie", ["debian/ trixie", "debian/ trixie-updates", "security/ trixie-security"]),
        ("sid", ["debian/ sid"]),
    ],
)
def test_another_suite_of_debian_comes_from_the_mirror_of_the_hosts_own(
    apt_host: Path, monkeypatch: pytest.MonkeyPatch, suite: str, names: list[str]
) -> None:
    release = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: release)
    (apt_host / "sources.list").write_text(DEBIAN)
    found = sources_for(host_sources(), suite)
    assert [source.name for source in found] == [f"http://example.org/{name}" for name in names]
    assert {source.signed_by for source in found} == {
        "/usr/share/keyrings/debian-archive-keyring.gpg"
    }
    release["ID"] = "ubuntu"
    with pytest.raises(Unprepared):
        sources_for(host_sources(), suite)


def test_a_suite_that_the_host_does_not_have_names_those_that_it_has(apt_host: Path) -> None:
    (apt_host / "sources.list").write_text(ONE_LINE)
    with pytest.raises(Unprepared) as caught:
        sources_for(host_sources(), "trixie", ["main"])
    assert "no source for suite trixie" in caught.value.brief
    assert "bookworm (main contrib)" in caught.value.details
    assert "<repository>" in caught.value.resolution


def test_logins_are_for_apt_only(apt_host: Path) -> None:
    (apt_host / "sources.list").write_text(ONE_LINE)
    (apt_host / "auth.conf").write_text("machine one.example.org login a password b\n")
    (apt_host / "auth.conf.d/two.conf").write_text("machine two.example.org login c password d\n")
    sources = host_sources()
    told = source_list(sources) + "".join(source.name for source in sources) + repr(sources)
    assert "p@ss" not in told
    assert "user" not in told
    auth = auth_file(host_apt().logins, sources)
    assert "machine one.example.org login a password b" in auth
    assert "machine two.example.org login c password d" in auth
    assert "machine http://example.org/private/ login user password p@ss" in auth


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://example.org/debian", ("http://example.org/debian", None)),
        ("https://u:p%2Fw@example.org:8080/x", ("https://example.org:8080/x", ("u", "p/w"))),
        ("https://token@example.org/x", ("https://example.org/x", ("token", ""))),
        ("file:/srv/repository", ("file:/srv/repository", None)),
    ],
)
def test_split_login(uri: str, expected: Any) -> None:
    assert split_login(uri) == expected


def test_proxies_come_from_the_hosts_configuration(apt_host: Path) -> None:
    (apt_host / "apt.conf.d/proxy").write_text(
        'Acquire::http::Proxy "http://cache.example:3142";\n'
    )
    assert 'Acquire::http::Proxy "http://cache.example:3142";' in transfer_settings(
        host_apt().settings
    )


def test_the_manifests_proxy_comes_last(apt_host: Path) -> None:
    (apt_host / "apt.conf.d/proxy").write_text(
        'Acquire::http::Proxy "http://cache.example:3142";\n'
    )
    proxies = [
        line
        for line in transfer_settings(host_apt().settings, "http://mine:1").splitlines()
        if "http::P" in line
    ]
    assert proxies[-1] == 'Acquire::http::Proxy "http://mine:1";'


def states(sources: list[Source]) -> dict[str, str]:
    return ask_releases(sources, host_apt())


def test_release_digests_are_those_of_what_the_mirror_serves(apt_host: Path, mirror: Any) -> None:
    for suite in ("one", "two"):
        release = mirror.directory / f"dists/{suite}/InRelease"
        release.parent.mkdir(parents=True)
        release.write_text(f"state of {suite}")
    sources = [Source(mirror.uri, suite) for suite in ("one", "two")]
    assert states(sources) == {
        f"{mirror.uri} {suite}": hashlib.sha256(f"state of {suite}".encode()).hexdigest()
        for suite in ("one", "two")
    }


def test_a_repository_without_inrelease_counts_by_its_release(apt_host: Path, mirror: Any) -> None:
    mirror.publish("old")
    release = (mirror.directory / "dists/old/Release").read_bytes()
    found = states([Source(mirror.uri, "old")])
    digest = hashlib.sha256(release).hexdigest()
    assert list(found.values()) == [f"{digest} 2026-01-01T00:00:00Z"]


@pytest.mark.parametrize(
    ("date", "told"),
    [
        ("Sat, 03 Oct 2026 10:20:30 UTC", " 2026-10-03T10:20:30Z"),
        ("Sat, 03 Oct 2026 10:20:30 +0200", " 2026-10-03T08:20:30Z"),
        ("yesterday", ""),
        ("Sat, 99 Oct 99999 10:20:30 UTC", ""),
        ("\xff\xfe", ""),
    ],
)
def test_the_date_of_a_repository_is_part_of_its_state(
    apt_host: Path, mirror: Any, date: str, told: str
) -> None:
    release = mirror.directory / "dists/one/InRelease"
    release.parent.mkdir(parents=True)
    content = f"Origin: test\nDate: {date}\nSHA256:\n".encode("latin-1")
    release.write_bytes(content)
    state = states([Source(mirror.uri, "one")])[f"{mirror.uri} one"]
    assert state == hashlib.sha256(content).hexdigest() + told


def test_a_stumbling_mirror_is_asked_again(apt_host: Path, mirror: Any) -> None:
    mirror.publish("old")
    mirror.refusals["/dists/old/InRelease"] = [503, 502]
    assert len(states([Source(mirror.uri, "old")])) == 1
    assert mirror.requests["/dists/old/InRelease"] == 3


def test_a_mirror_that_stays_away_is_named_with_its_status(apt_host: Path, mirror: Any) -> None:
    mirror.refusals["/dists/old/InRelease"] = [-503]
    with pytest.raises(Unprepared) as caught:
        states([Source(mirror.uri, "old")])
    assert f"{mirror.uri} old" in caught.value.brief
    assert "503  Service Unavailable" in caught.value.brief
    assert "tried 4 times" in caught.value.details
    assert mirror.requests["/dists/old/InRelease"] == 4


def test_a_suite_that_does_not_exist_is_not_asked_for_again(apt_host: Path, mirror: Any) -> None:
    with pytest.raises(Unprepared, match="404"):
        states([Source(mirror.uri, "nosuch")])
    assert mirror.requests == {"/dists/nosuch/InRelease": 1, "/dists/nosuch/Release": 1}


def test_a_mirror_that_does_not_answer_is_an_error_not_a_traceback(apt_host: Path) -> None:
    with pytest.raises(Unprepared, match="Could not connect"):
        states([Source("http://127.0.0.1:1/", "old")])


def test_a_private_mirror_gets_its_login(apt_host: Path, mirror: Any) -> None:
    mirror.publish("private")
    mirror.login = "user:p@ss"
    source = Source(mirror.uri, "private", login=("user", "p@ss"))
    digests = states([source])
    assert list(digests) == [f"{mirror.uri} private"]
    with pytest.raises(Unprepared, match="401"):
        states([Source(mirror.uri, "private")])


@pytest.mark.parametrize(
    ("reason", "transient"),
    [
        ("503  Service Unavailable", True),
        ("429  Too Many Requests", True),
        ("Could not resolve 'mirror.example'", True),
        ("404  Not Found", False),
        ("403  Forbidden", False),
    ],
)
def test_only_what_may_pass_is_tried_again(reason: str, transient: bool) -> None:
    output = (
        f"Err:1 x\nE: Failed to fetch http://u:p@example.org/a.deb  {reason} [IP: 192.0.2.1 80]\n"
    )
    problem = fetch_problem(output)
    assert problem == FetchProblem("http://example.org/a.deb", reason)
    assert problem.transient is transient


def test_output_without_a_failed_download_tells_no_problem() -> None:
    assert fetch_problem("E: Unable to locate package nosuch\n") is None


def test_sources_that_apt_cannot_read_are_apts_to_explain(apt_host: Path) -> None:
    (apt_host / "sources.list").write_text("deb http://example.org/debian\n")
    with pytest.raises(Unprepared) as caught:
        host_sources()
    assert "Malformed entry 1" in caught.value.details
