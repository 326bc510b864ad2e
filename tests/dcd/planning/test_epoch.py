"""A build has one time, and what is captured decides it: a reused result has the bytes of a fresh one."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from dcd.manifest.data_object import Origin
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects import BUILTIN
from dcd.manifest.times import EARLIEST, LATEST, unix_time
from dcd.manifest.values import BadValue
from dcd.planning.epoch import UNDATED, BuildTime, choose_epoch
from dcd.planning.reference import GRAMMAR

RELAX_NG = etree.RelaxNG(etree.parse(str(GRAMMAR)))
SHA = "0" * 64


def doc(attributes: str = "") -> DataObjectCache:
    found = DataObjectCache()
    element = etree.fromstring(f'<distro name="test" {attributes}/>')
    found.volatile.insert_children(BUILTIN.read(element, lambda *_: Origin("m.xml", 1)))
    return found


def test_the_manifest_decides_then_the_client_then_the_newest_repository() -> None:
    states = [
        {"one": f"{SHA} 2026-02-03T04:05:06Z", "GRUB of the host": f"{SHA} grub-common 2.06"},
        {"two": f"{SHA} 2026-01-03T04:05:06Z", "three": SHA},
    ]
    dated = doc('source_date_epoch="2026-05-06"')
    newest = unix_time("2026-02-03T04:05:06Z")
    assert choose_epoch(dated, 1700000000, states) == BuildTime(unix_time("2026-05-06"), "manifest")
    assert choose_epoch(doc(), 1700000000, states) == BuildTime(1700000000, "request")
    assert choose_epoch(doc(), None, states) == BuildTime(newest, "repositories")
    assert choose_epoch(doc(), None, [{}, {"three": SHA}]) == BuildTime(UNDATED, "none")


@pytest.mark.parametrize(
    "date", ["9999-01-01T00:00:00Z", "1969-01-01T00:00:00Z", "2026-99-99T00:00:00Z"]
)
def test_a_repository_with_an_impossible_date_has_none(date: str) -> None:
    assert choose_epoch(doc(), None, [{"one": f"{SHA} {date}"}]) == BuildTime(UNDATED, "none")


@given(st.text())
def test_what_a_server_says_is_a_date_or_nothing(text: str) -> None:
    assert EARLIEST <= choose_epoch(doc(), None, [{"one": f"{SHA} {text}"}]).seconds <= LATEST


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("315532800", 315532800),
        ("4294967295", LATEST),
        ("2026-10-03", 1790985600),
        ("2026-10-03T12:00:00Z", 1791028800),
    ],
)
def test_times_are_seconds_or_dates_in_utc(text: str, seconds: int) -> None:
    assert unix_time(text) == seconds


NO_TIMES = (
    *("", "now", "0", "315532799", "4294967296", "2026-13-01", "2026-02-30", "1979-12-31", "-1"),
    *("2026-10-03 12:00:00", "2026-10-03T12:00:00+02:00", "315532800.5"),
    *("000000000", "999999", "0315532800", "2100-02-29", "2023-02-29", "2026-04-31", "2107-01-01"),
    *("2106-02-07T06:28:16Z", "2106-02-08", "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z"),
)


@pytest.mark.parametrize("text", NO_TIMES)
def test_what_no_file_system_can_hold_is_no_time(text: str) -> None:
    with pytest.raises(BadValue, match="1980 to 2106"):
        unix_time(text)


_NUMBERS = st.integers(0, 2 * LATEST).map(str)
_BORDERS = st.sampled_from([EARLIEST, LATEST, 10**9]).flatmap(
    lambda border: st.integers(border - 2000, border + 2000).map(str)
)
_DATES = st.tuples(st.integers(1978, 2108), st.integers(0, 13), st.integers(0, 32)).map(
    lambda date: "{:04}-{:02}-{:02}".format(*date)
)
_TIMES = st.tuples(st.integers(0, 24), st.integers(0, 60), st.integers(0, 60)).map(
    lambda time: "T{:02}:{:02}:{:02}Z".format(*time)
)
_WITHOUT_TIME = """<dc><distro name="a"><execution>
<checkpoint name="c" mod_path="a/b" checkpoint_class="C"/></execution></distro></dc>"""
_LAST_DAYS = st.tuples(st.sampled_from(["2106-02-06", "2106-02-07", "2106-02-08"]), _TIMES)


@given(st.one_of(_NUMBERS, _BORDERS, _DATES, st.tuples(_DATES, _TIMES), _LAST_DAYS))
def test_the_grammar_takes_just_the_times_that_are_taken(parts: str | tuple[str, str]) -> None:
    text = "".join(parts)
    try:
        seconds = (
            int(text)
            if text.isdecimal()
            else int(datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC).timestamp())
        )
        possible = EARLIEST <= seconds <= LATEST
    except ValueError:
        possible = False
    manifest = etree.fromstring(_WITHOUT_TIME)
    manifest[0].set("source_date_epoch", text)
    assert RELAX_NG.validate(manifest) == possible
    if possible:
        assert unix_time(text) == seconds
    else:
        with pytest.raises(BadValue):
            unix_time(text)


SCRIPT = 'mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript"'
MANIFEST = f"""<dc><distro name="medium"{{attributes}}><execution>
<checkpoint name="system" {SCRIPT}><args>mkdir -p {{PKG_IMAGE_PATH}}/etc &amp;&amp;
 date -d @$SOURCE_DATE_EPOCH &gt; {{PKG_IMAGE_PATH}}/etc/stamp &amp;&amp;
 echo k &gt; {{BOOT_ARCHIVE}}/vmlinuz &amp;&amp; echo i &gt; {{BOOT_ARCHIVE}}/initrd.img</args></checkpoint>
<checkpoint name="squash" mod_path="dcd/checkpoints/image/compress"
 checkpoint_class="SquashfsPkgImgMod"><kwargs><arg name="compression_level">1</arg></kwargs></checkpoint>
<checkpoint name="menu" mod_path="dcd/checkpoints/boot/menu" checkpoint_class="GrubBootMenu"/>
<checkpoint name="iso" mod_path="dcd/checkpoints/media/iso" checkpoint_class="CreateISO"/>
</execution></distro></dc>
"""


def medium(daemon: Any, build: str) -> str:
    """The digest of the build's ISO."""
    daemon.wait(build, "completed", seconds=180)
    (iso,) = (each for each in daemon.json("artifacts", build) if each["name"].endswith(".iso"))
    return hashlib.sha256(Path(iso["path"]).read_bytes()).hexdigest()


@pytest.mark.root
def test_a_fresh_build_and_a_reused_one_have_the_same_bytes(daemon: Any, tmp_path: Path) -> None:
    manifest = tmp_path / "medium.xml"
    manifest.write_text(MANIFEST.replace("{attributes}", ""))
    first = medium(daemon, daemon.submit(manifest))
    assert medium(daemon, daemon.submit(manifest, "--fresh-from", "iso")) == first
    assert medium(daemon, daemon.submit(manifest, "--fresh")) == first


@pytest.mark.root
def test_the_time_that_is_asked_for_is_recorded_and_a_replaced_manifest_keeps_it(
    daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / "small.xml"
    text = (
        '<dc><distro name="small"{attributes}><execution><checkpoint name="one" '
        f"{SCRIPT}><args>echo $SOURCE_DATE_EPOCH</args></checkpoint>"
        f'<checkpoint name="two" {SCRIPT}><args>{{two}}</args></checkpoint>'
        "</execution></distro></dc>"
    )
    manifest.write_text(text.format(attributes="", two="false"))
    build = daemon.submit(manifest, "--source-date-epoch", "1700000000")
    assert daemon.wait(build, "failed")["source_date_epoch"] == 1700000000
    assert "1700000000" in daemon.ctl("logs", build, "one")
    planned = daemon.events(build)[0]["data"]["plan"]["checkpoints"][0]["ingredients"]
    assert [part["digest"] for part in planned if part["kind"] == "epoch"] == ["1700000000"]

    manifest.write_text(text.format(attributes="", two="true"))
    told = daemon.json("resume", build, "--manifest", manifest)
    assert told["kept"] == ["one"]
    resumed = daemon.wait(build, "completed")
    assert (resumed["source_date_epoch"], resumed["time_origin"]) == (1700000000, "request")
    assert "files dated 2023-11-14T22:13:20Z, as requested" in daemon.ctl("status", build)

    monkeypatch.setitem(os.environ, "SOURCE_DATE_EPOCH", "1700000000")
    assert [c["action"] for c in daemon.json("plan", manifest)["checkpoints"]] == ["reuse", "reuse"]
    monkeypatch.setitem(os.environ, "SOURCE_DATE_EPOCH", "1700000001")
    reasons = [each["reason"] for each in daemon.json("plan", manifest)["checkpoints"]]
    assert reasons[0] == (
        "the time of the build changed (it was 2023-11-14T22:13:20Z, it is 2023-11-14T22:13:21Z)"
    )
    manifest.write_text(text.format(attributes=' source_date_epoch="1700000000"', two="true"))
    assert [c["action"] for c in daemon.json("plan", manifest)["checkpoints"]] == ["reuse", "reuse"]
    monkeypatch.setitem(os.environ, "SOURCE_DATE_EPOCH", "yesterday")
    assert "not a time" in daemon.run("plan", manifest).stderr
    monkeypatch.delitem(os.environ, "SOURCE_DATE_EPOCH")
    assert daemon.run("submit", manifest, "--source-date-epoch", "7").returncode == 2
