"""XInclude from files that the client has sent."""

import pytest

from dcd.manifest.data_object import Origin
from dcd.manifest.includes import CapturedFile, Directories, MissingInput, resolve_includes
from dcd.manifest.source import LIMITS, Limits, Source, read

XI = 'xmlns:xi="http://www.w3.org/2001/XInclude"'
HERE = Directories("/home/me", ("/srv/parts",), {"/usr/share/distro_const/": "/opt/dc"})


def captured(text: str) -> CapturedFile:
    return CapturedFile("0" * 64, 0o644, text.encode)


def resolve(
    text: str, files: dict[str, CapturedFile | None], limits: Limits = LIMITS
) -> tuple[Source, list[str], list[MissingInput]]:
    source = read(text, "/home/me/live.xml", limits)
    wrong, met = resolve_includes(source, files, HERE, limits)
    return source, [found.message for found in wrong], met


def include(href: str, inner: str = "", attributes: str = "") -> str:
    return f'<a>\n<xi:include {XI} href="{href}" {attributes}>{inner}</xi:include></a>'


def test_an_include_becomes_the_file_with_its_own_lines() -> None:
    source, wrong, _ = resolve(include("part.xml"), {"/home/me/part.xml": captured("\n<b/>")})
    assert wrong == []
    (b,) = source.root
    assert (b.tag, source.origin(b)) == ("b", Origin("/home/me/part.xml", 2, 1))


def test_a_file_that_was_not_sent_is_reported_with_its_line() -> None:
    _, wrong, met = resolve(include("sub/part.xml"), {})
    assert wrong == []
    assert met == [
        MissingInput(
            "/home/me/sub/part.xml", "include", False, 2, "sub/part.xml", "/home/me/live.xml"
        )
    ]


@pytest.mark.parametrize(
    ("href", "path"),
    [
        ("/srv/parts/x.xml", "/srv/parts/x.xml"),
        ("file:///srv/parts/x.xml", "/srv/parts/x.xml"),
        ("./a/../b%20c.xml", "/home/me/b c.xml"),
        ("/usr/share/distro_const/lang.xml", "/opt/dc/lang.xml"),
    ],
)
def test_paths_are_resolved_through_allowed_and_mapped_directories(href: str, path: str) -> None:
    _, wrong, (met,) = resolve(include(href), {})
    assert (wrong, met.path, met.written) == ([], path, href)


@pytest.mark.parametrize(
    "href",
    [
        "/etc/shadow",
        "../other/x.xml",
        "/srv/parts/../../etc/shadow",
        "/usr/share/distro_const/../../../etc/shadow",
        "/home/me",
        "/home/meanwhile/x.xml",
    ],
)
def test_other_directories_are_refused(href: str) -> None:
    _, (wrong,), met = resolve(include(href), {})
    assert "xi:include may not read /" in wrong
    assert met == []


@pytest.mark.parametrize("href", ["http://192.0.2.1/x.xml", "//192.0.2.1/x.xml", "", "x.xml#part"])
def test_nothing_but_whole_files_is_included(href: str) -> None:
    _, wrong, met = resolve(include(href), {})
    assert wrong == [f"xi:include cannot read {href!r}"]
    assert met == []


def test_xpointer_and_strange_content_are_refused() -> None:
    assert "xpointer" in resolve(include("x.xml", "", 'xpointer="y"'), {})[1][0]
    assert "at most one xi:fallback" in resolve(include("x.xml", "<b/>"), {})[1][0]
    assert "at most one xi:fallback" in resolve(include("x.xml", "", 'wrong="y"'), {})[1][0]
    assert "at most one xi:fallback" in resolve(include("x.xml", "", 'when="dev"'), {})[1][0]


def test_a_relative_path_in_an_included_file_begins_at_that_file() -> None:
    files: dict[str, CapturedFile | None] = {
        "/home/me/sub/one.xml": captured(f'<b><xi:include {XI} href="two.xml"/></b>'),
        "/home/me/sub/two.xml": captured("<c/>"),
    }
    source, wrong, met = resolve(include("sub/one.xml"), files)
    assert wrong == []
    assert source.root.find("b/c") is not None
    assert [found.path for found in met] == ["/home/me/sub/one.xml", "/home/me/sub/two.xml"]


def test_a_loop_is_refused() -> None:
    files: dict[str, CapturedFile | None] = {
        "/home/me/one.xml": captured(f'<b><xi:include {XI} href="two.xml"/></b>'),
        "/home/me/two.xml": captured(f'<c><xi:include {XI} href="one.xml"/></c>'),
    }
    _, (wrong,), _ = resolve(include("one.xml"), files)
    assert wrong.startswith("the includes never end: /home/me/one.xml includes /home/me/two.xml")


def test_includes_that_multiply_are_bounded() -> None:
    twice = "".join(f'<xi:include {XI} href="{{next}}"/>' for _ in range(10))
    files: dict[str, CapturedFile | None] = {
        f"/home/me/{n}.xml": captured(f"<b>{twice.format(next=f'{n + 1}.xml')}</b>")
        for n in range(9)
    }
    files["/home/me/9.xml"] = captured("<b>" + "x" * 10_000 + "</b>")
    source, wrong, _ = resolve(include("0.xml"), files, Limits(max_expanded_bytes=100_000))
    assert "the includes have more than 100000 bytes" in wrong
    assert len(list(source.elements())) < 1000


def test_includes_that_nest_are_bounded() -> None:
    deep = "<b>" * 50 + f'<xi:include {XI} href="{{next}}"/>' + "</b>" * 50
    files: dict[str, CapturedFile | None] = {
        f"/home/me/{n}.xml": captured(deep.format(next=f"{n + 1}.xml")) for n in range(15)
    }
    _, wrong, _ = resolve(include("0.xml"), files)
    assert wrong == ["the includes nest deeper than 64 levels"]


def test_a_fallback_stands_in_for_a_file_that_is_not_there() -> None:
    inner = "<xi:fallback><b/><c/></xi:fallback>"
    _, _, (asked,) = resolve(include("part.xml", inner), {})
    assert asked.optional
    source, wrong, _ = resolve(include("part.xml", inner), {"/home/me/part.xml": None})
    assert (wrong, [b.tag for b in source.root]) == ([], ["b", "c"])
    source, _, _ = resolve(include("part.xml", inner), {"/home/me/part.xml": captured("<d/>")})
    assert [b.tag for b in source.root] == ["d"]


def test_without_a_fallback_a_missing_file_is_an_error() -> None:
    assert resolve(include("part.xml"), {"/home/me/part.xml": None})[1] == [
        "there is no file /home/me/part.xml"
    ]


def test_a_missing_file_is_reported_with_the_place_and_the_setting_that_maps_it() -> None:
    mapped = {"/usr/share/distro_const/": "/srv/caiman"}
    run = {"/srv/caiman/x.xml": None, "/opt/x.xml": None, "/usr/share/distro_const/x.xml": None}
    for allowed, wanted in (
        (mapped, "It was looked for in /srv/caiman: include_map maps /usr/share/distro_const/"),
        ({}, "looked for in /usr/share/distro_const; include_map maps no directory"),
    ):
        source = read(include("/usr/share/distro_const/x.xml"), "/home/me/m.xml", LIMITS)
        directories = Directories("/home/me", ("/usr/share/distro_const",), allowed)
        (found,), _ = resolve_includes(source, run, directories, LIMITS)
        assert wanted in found.why
        assert "include_map" in found.suggestion


def test_text_can_be_included_as_text() -> None:
    text = "if [ 1 < 2 ]; then\n  echo &amp;\nfi"
    source, wrong, _ = resolve(
        include("part.sh", "", 'parse="text"'), {"/home/me/part.sh": captured(text)}
    )
    assert wrong == []
    assert (source.root.text or "").strip() == text


def test_an_included_file_is_read_as_suspiciously_as_the_manifest() -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'
    _, wrong, _ = resolve(include("part.xml"), {"/home/me/part.xml": captured(bomb)})
    assert wrong == ["a document type with declarations of its own is not read"]
