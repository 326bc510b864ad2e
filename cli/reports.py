"""Reports of a build for CI systems: `--junit FILE` and `--summary FILE`.

A JUnit report has a test case for each checkpoint, with its log and the consoles of its boots attached; a
summary is Markdown. Both are written when the build stops, whatever the outcome, and when it is refused.
Texts from builds are made harmless: control characters become escapes, markup is quoted. Source for the
form of JUnit: the schema of Jenkins' xUnit plug-in (junit-10.xsd), which other CI systems read as well.
"""

import argparse
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cli.client import ClientError, Json, build_path, read, request
from cli.commands.options import wants_reports
from cli.text import duration, local_time, printable, size

ATTACHED_BYTES = 64 * 1024
"""The size of the end of a log or console that is attached."""

TAIL_LINES = 20

_PASSED = ("completed", "reused")


class Attached(NamedTuple):
    """The end of a checkpoint's log, and the consoles of its boots by name."""

    log: str = ""
    consoles: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """All of it."""
        parts = [self.log, *(f"--- {name}\n{text}" for name, text in self.consoles)]
        return "\n".join(filter(None, parts))


def write_reports(args: argparse.Namespace, identities: Mapping[str, str]) -> None:
    """Write the reports that are asked for about builds that have stopped: their ids, each with the label of
    its cell in a group ("": none). Raises ClientError."""
    if not wants_reports(args):
        return
    builds = []
    for identity, label in identities.items():
        build = request(args.socket, "GET", build_path(identity))
        builds.append({**build, "name": f"{build['name']} ({label})" if label else build["name"]})
    found = [(build, _attached(args.socket, build)) for build in builds]
    xml = _document(*(suite(build, attached) for build, attached in found))
    _write(args, xml, "\n".join(summary(build, attached) for build, attached in found))


def write_refusal(args: argparse.Namespace, error: ClientError) -> None:
    """Write the reports that are asked for about a build that there is not."""
    if not wants_reports(args):
        return
    lines = [
        f"{each['file']}:{each['line']}: {each['severity']}: {each['message']}"
        for each in error.diagnostics
    ]
    text = "\n".join(lines or filter(None, [error.details, error.resolution]))
    name = Path(getattr(args, "manifest", "")).stem or "build"
    refused = ET.Element("testsuite", name=name, tests="1", failures="0", errors="1", skipped="0")
    case = ET.SubElement(refused, "testcase", name="submit", classname=f"dcd.{name}", time="0")
    _problem(case, "error", error.kind, error.brief, text)
    markdown = f"# {_cell(name)}: not built\n\n{_cell(error.brief)}\n\n{_quoted(text)}"
    _write(args, _document(refused), markdown)


def suite(build: Json, attached: dict[str, Attached]) -> ET.Element:
    """The test suite of a build, in the form of JUnit."""
    name = build["name"]
    found = ET.Element("testsuite", name=_clean(name))
    properties = ET.SubElement(found, "properties")
    shown = {"build": build["id"], "state": build["state"], "manifest": build["manifest_path"]}
    shown["submitted_by"] = build["actor"]["user"]
    for key, value in shown.items():
        ET.SubElement(properties, "property", name=key, value=_clean(value))
    for checkpoint in build["checkpoints"]:
        case = _case(found, name, checkpoint["name"], checkpoint["seconds"])
        _verdict(case, checkpoint)
        if text := attached.get(checkpoint["name"], Attached()).text:
            ET.SubElement(case, "system-out").text = _clean(text)
    failed = any(each["state"] == "failed" for each in build["checkpoints"])
    if build["state"] != "completed" and not failed:
        error = build["error"] or {"brief": build["reason"], "details": "", "resolution": ""}
        case = _case(found, name, "build", None)
        message = error["brief"] or f"the build is {build['state']}"
        _problem(case, "error", build["state"], message, _text_of(error))
    count = {
        kind: len(found.findall(f"testcase/{kind}")) for kind in ("failure", "error", "skipped")
    }
    seconds = sum(each["seconds"] or 0.0 for each in build["checkpoints"])
    found.attrib |= {
        "tests": str(len(found.findall("testcase"))),
        "failures": str(count["failure"]),
        "errors": str(count["error"]),
        "skipped": str(count["skipped"]),
        "time": f"{seconds:.3f}",
        "timestamp": build["submitted_at"][:19],
    }
    return found


def summary(build: Json, attached: dict[str, Attached]) -> str:
    """The summary of a build, in Markdown."""
    lines = [f"# {_cell(build['name'])} {_cell(build['id'])}: {_cell(build['state'])}", ""]
    if build["reason"] and build["state"] not in ("completed", "failed"):
        lines += [_cell(build["reason"]), ""]
    lines += [
        f"Submitted by {_cell(build['actor']['user'])} at {local_time(build['submitted_at'])}.",
        "",
    ]
    if build["state"] == "failed" and (error := build["error"]):
        failed = [each["name"] for each in build["checkpoints"] if each["state"] == "failed"]
        lines += [f"**{_cell(error['brief'])}**", "", _quoted(_text_of(error))]
        for name in failed:
            tail = attached.get(name, Attached()).log.splitlines()[-TAIL_LINES:]
            lines += [f"The end of the log of {_cell(name)}:", "", _quoted("\n".join(tail))]
    lines += ["| checkpoint | state | took | |", "|---|---|--:|---|"]
    for each in build["checkpoints"]:
        remark = "; ".join(each.get("warnings", ()))
        if each["state"] == "reused" and each["reused_from"]:
            remark = f"from {each['reused_from']}" + (f"; {remark}" if remark else "")
        lines.append(_row(each["name"], each["state"], duration(each["seconds"]), remark))
    artifacts = build["artifacts"] if build["state"] == "completed" else ()
    if artifacts:
        lines += ["", "| artifact | size | SHA-256 |", "|---|--:|---|"]
        lines += [
            _row(each["name"], size(each["size_bytes"]), each["sha256"]) for each in artifacts
        ]
    return "\n".join(lines) + "\n"


def _case(suite: ET.Element, build: str, name: str, seconds: float | None) -> ET.Element:
    return ET.SubElement(
        suite,
        "testcase",
        name=_clean(name),
        classname=f"dcd.{_clean(build)}",
        time=f"{seconds or 0.0:.3f}",
    )


def _verdict(case: ET.Element, checkpoint: Json) -> None:
    state = checkpoint["state"]
    if state == "failed":
        error = checkpoint["error"] or {"brief": "failed", "details": "", "resolution": ""}
        _problem(case, "failure", "checkpoint-failed", error["brief"], _text_of(error))
    elif state not in _PASSED:
        _problem(case, "skipped", state, f"{state}: it did not end", "")


def _problem(case: ET.Element, tag: str, kind: str, message: str, text: str) -> None:
    found = ET.SubElement(case, tag, type=_clean(kind), message=_clean(message))
    found.text = _clean(text) or None


def _text_of(error: Json) -> str:
    return "\n".join(filter(None, [error["brief"], error["details"], error["resolution"]]))


def _document(*suites: ET.Element) -> str:
    root = ET.Element("testsuites", name="dcd")
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(each.get(key, "0")) for each in suites)))
    root.extend(suites)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _clean(text: str) -> str:
    """The text with characters that XML cannot have as escapes."""
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


def _row(*cells: str) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """The text on one line of Markdown, without effect on the rest."""
    flat = " ".join(_clean(text).split())
    return re.sub(r"([\\`*_\[\]<>|#!~&])", r"\\\1", flat)


def _quoted(text: str) -> str:
    """The text as an indented block, whose markup has no effect."""
    return "".join(f"    {line}\n" for line in _clean(text).splitlines()) + "\n"


def _attached(socket_path: str, build: Json) -> dict[str, Attached]:
    """The end of the newest log of each checkpoint, and of the consoles that this attempt has left."""
    try:
        logs = request(socket_path, "GET", build_path(build["id"], "logs"))["logs"]
    except ClientError:  # the build was removed meanwhile
        return {}
    newest = {log["checkpoint"]: log for log in sorted(logs, key=lambda each: each["attempt"])}
    found = {}
    for name, log in newest.items():
        attempt = ("logs", name, str(log["attempt"]))
        text = _end(socket_path, build["id"], *attempt, size_bytes=log["size_bytes"])
        try:
            path = build_path(build["id"], *attempt, "files")
            files = request(socket_path, "GET", path)["files"]
        except ClientError:  # a daemon of an earlier version
            files = ()
        consoles = [
            (each["name"], _end(socket_path, build["id"], *attempt, "files", each["name"]))
            for each in files
            if each["media_type"].startswith("text/plain")
        ]
        found[name] = Attached(text, tuple(each for each in consoles if each[1]))
    return found


def _end(socket_path: str, identity: str, *rest: str, size_bytes: int = 0) -> str:
    """The end of a text of this size (0: not known); "" for one that cannot be read."""
    query = {"offset": max(size_bytes - ATTACHED_BYTES, 0)} if size_bytes else {}
    content = b""
    try:
        for piece in read(socket_path, build_path(identity, *rest), query=query):
            content = (content + piece)[-ATTACHED_BYTES:]
    except ClientError:
        return ""
    return content.decode("utf-8", "replace")


def _write(args: argparse.Namespace, xml: str, markdown: str) -> None:
    for path, text in ((args.junit, xml), (args.summary, markdown)):
        if path is not None:
            path.write_text(text, encoding="utf-8")
