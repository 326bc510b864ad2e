"""Reports for CI systems: JUnit and Markdown, whatever becomes of the build."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from lxml import etree

from cli.main import main
from statemachine import events as ev

ERROR = ev.ErrorInfo("grub-mkrescue exited with status 1", "no space", "free some space")

JUNIT = etree.RelaxNG(
    etree.fromstring(
        """
<grammar xmlns="http://relaxng.org/ns/structure/1.0"
         datatypeLibrary="http://www.w3.org/2001/XMLSchema-datatypes">
<define name="time"><data type="string"><param name="pattern">[0-9]+(\\.[0-9]+)?</param></data></define>
<define name="count"><data type="nonNegativeInteger"/></define>
<define name="counts">
 <attribute name="tests"><ref name="count"/></attribute>
 <attribute name="failures"><ref name="count"/></attribute>
 <attribute name="errors"><ref name="count"/></attribute>
</define>
<start><element name="testsuites"><attribute name="name"/><ref name="counts"/>
 <element name="testsuite"><attribute name="name"/><ref name="counts"/>
  <attribute name="skipped"><ref name="count"/></attribute>
  <optional><attribute name="time"><ref name="time"/></attribute></optional>
  <optional><attribute name="timestamp"><data type="dateTime"/></attribute></optional>
  <optional><element name="properties"><oneOrMore>
   <element name="property"><attribute name="name"/><attribute name="value"/></element>
  </oneOrMore></element></optional>
  <oneOrMore><element name="testcase">
   <attribute name="name"/><attribute name="classname"/>
   <attribute name="time"><ref name="time"/></attribute>
   <optional><element>
    <choice><name>failure</name><name>error</name><name>skipped</name></choice>
    <attribute name="type"/><attribute name="message"/><text/>
   </element></optional>
   <optional><element name="system-out"><text/></element></optional>
  </element></oneOrMore>
 </element>
</element></start>
</grammar>"""
    )
)
"""What of Jenkins' junit-10.xsd a report uses; GitLab and GitHub's actions read the same."""


class Reports:
    """Where a command writes its reports."""

    def __init__(self, directory: Path) -> None:
        self.junit, self.summary = directory / "junit.xml", directory / "summary.md"
        self.options = ("--junit", str(self.junit), "--summary", str(self.summary))

    def suite(self) -> ET.Element:
        text = self.junit.read_bytes()
        JUNIT.assertValid(etree.fromstring(text))
        found = ET.fromstring(text).find("testsuite")
        assert found is not None
        return found

    def verdicts(self) -> dict[str, str]:
        """The verdict on each test case: a tag, or `passed`."""
        return {
            case.get("name", ""): next(
                (each.tag for each in case if each.tag != "system-out"), "passed"
            )
            for case in self.suite().iter("testcase")
        }


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    return Reports(tmp_path)


def test_a_completed_build_has_a_test_case_for_each_checkpoint(dcctl, daemon, reports) -> None:
    build = daemon.build(transfer_deb=45.0, motd=1.0)
    build.tell(ev.BuildStarted(), ev.CheckpointStarted("transfer-deb", 1, "k", "/l"))
    build.logs["transfer-deb", 1] = b"installing\n"
    build.tell(ev.CheckpointCompleted("transfer-deb", 1, "k", 41.2))
    build.tell(ev.CheckpointReused("motd", "k", "7fa2wxyz"), ev.BuildCompleted(42.0))

    assert dcctl("follow", "k2p7", *reports.options).code == 0

    assert reports.verdicts() == {"transfer-deb": "passed", "motd": "passed"}
    suite = reports.suite()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "0", "0")
    assert suite.findtext("testcase[@name='transfer-deb']/system-out") == "installing\n"
    assert "k2p7abcd: completed" in reports.summary.read_text()
    assert "| motd | reused |" in reports.summary.read_text()


def test_a_failure_has_its_text_its_log_and_the_rest_is_skipped(dcctl, daemon, reports) -> None:
    build = daemon.build(one=1.0, two=1.0)
    build.logs["one", 1] = b"\x1b[31mred\x1b[0m ]]> & <b> \xff\n"
    build.files["bios.log"] = b"login:\n"
    build.tell(ev.BuildStarted(), ev.CheckpointStarted("one", 1, "k", "/l"))
    build.tell(ev.CheckpointFailed("one", 1, ERROR, 3.0), ev.BuildFailed("one", ERROR))

    assert dcctl("follow", "k2p7", *reports.options).code == 3

    assert reports.verdicts() == {"one": "failure", "two": "skipped"}
    failure = reports.suite().find("testcase[@name='one']/failure")
    assert failure is not None
    assert failure.get("message") == ERROR.brief
    assert (failure.text or "").splitlines() == [ERROR.brief, ERROR.details, ERROR.resolution]
    log = reports.suite().findtext("testcase[@name='one']/system-out") or ""
    assert "--- bios.log\nlogin:" in log
    assert "\\x1b[31mred" in log
    assert "]]> & <b>" in log
    summary = reports.summary.read_text()
    assert "**grub-mkrescue exited with status 1**" in summary
    assert "    \\x1b[31mred" in summary


def test_a_build_that_stops_without_a_failure_is_an_error(dcctl, daemon, reports) -> None:
    build = daemon.build(one=1.0)
    build.tell(ev.BuildStarted(), ev.BuildPaused("no space left", "no-space"))
    build.view["reason"] = "no space left"

    assert dcctl("follow", "k2p7", *reports.options).code == 4

    assert reports.verdicts() == {"one": "skipped", "build": "error"}
    assert "no space left" in reports.summary.read_text()


def test_a_refused_manifest_is_reported_with_its_lines(dcctl, daemon, reports, tmp_path) -> None:
    manifest = tmp_path / "image.xml"
    manifest.write_text("<dc/>")
    fault = {"severity": "error", "file": "/me/image.xml", "line": 4, "column": 1}
    fault |= {"message": "there is no element <x>", "why": "", "suggestion": ""}
    daemon.answers["POST", "/v1/builds"] = (
        422,
        {"type": "urn:dcd:problem:invalid-manifest", "title": "bad", "diagnostics": [fault]},
    )

    assert dcctl("submit", str(manifest), *reports.options).code == 8

    assert reports.verdicts() == {"submit": "error"}
    assert "/me/image.xml:4: error: there is no element <x>" in reports.junit.read_text().replace(
        "&lt;", "<"
    ).replace("&gt;", ">")
    assert "there is no element" in reports.summary.read_text()


def test_a_group_has_a_suite_for_each_cell(dcctl, daemon, reports) -> None:
    cells = []
    for number, suite in enumerate(("bookworm", "trixie"), 1):
        build = daemon.build(f"k3-{number}", one=1.0)
        build.tell(ev.BuildStarted(), ev.CheckpointStarted("one", 1, "k", "/l"))
        build.tell(ev.CheckpointCompleted("one", 1, "k", 1.0), ev.BuildCompleted(1.0))
        cell = {"cell": {"suite": suite}, "running": "", "completed_checkpoints": 1}
        cells.append({**build.view, **cell, "total_checkpoints": 1, "removed": False})
    daemon.answers["GET", "/v1/groups/k3"] = (200, {"id": "k3", "builds": cells})

    assert dcctl("follow", "k3", *reports.options).code == 0

    suites = ET.parse(reports.junit).getroot()
    assert (suites.get("tests"), suites.get("errors")) == ("2", "0")
    assert [each.get("name") for each in suites] == ["live (suite=bookworm)", "live (suite=trixie)"]
    assert len({each.get("classname") for each in suites.iter("testcase")}) == 2
    assert "live (suite=trixie) k3-2: completed" in reports.summary.read_text()


def test_markup_in_names_has_no_effect(dcctl, daemon, reports) -> None:
    build = daemon.build(one=1.0)
    build.view["name"] = "a|b<script>`x`\n# h"
    build.tell(ev.BuildStarted(), ev.CheckpointStarted("one", 1, "k", "/l"))
    build.tell(ev.CheckpointCompleted("one", 1, "k", 1.0), ev.BuildCompleted(1.0))

    assert dcctl("follow", "k2p7", *reports.options).code == 0

    assert reports.summary.read_text().splitlines()[0].startswith(r"# a\|b\<script\>\`x\` \# h")
    assert reports.suite().get("name") == "a|b<script>`x`\n# h"


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_built(
    daemon, tmp_path, capsys
) -> None:
    for wrong in (str(tmp_path), str(tmp_path / "none" / "junit.xml")):
        with pytest.raises(SystemExit) as ended:
            main(["--socket", daemon.socket, "build", "image.xml", "--junit", wrong])
        assert ended.value.code == 2
        assert "--junit" in capsys.readouterr().err
    assert daemon.requests == []
