"""What a build, a manifest or a stranger's daemon wrote never steers the terminal on which it is read."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.commands import NAMES
from statemachine import events as ev

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
OPENAPI = json.loads((REPOSITORY / "docs" / "reference" / "openapi.json").read_text())

HOSTILE = (
    "\x1b]0;title\x07 \x1b]52;c;aGk=\x07 \x1b[2J \x1bP+q\x1b\\ \x9b31m \x9d \x7f \r over "
    "\u202e rtl \u2066 isolate \u200b zero \u2028 line \ufeff bom \U000e0041 tag \x00"
)
"""Terminal commands (OSC, CSI, DCS, C1), bidirectional overrides, and what cannot be seen."""

OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\r?(\x1b\[1A)?\x1b\[2K")
"""What dcctl itself sends to a terminal: colours; and to draw, the cursor hidden, lines erased."""


def steering(seen: bytes) -> set[str]:
    """The characters that got through, beside dcctl's own colours and the ends of lines."""
    text = OWN.sub("", seen.decode("utf-8", "surrogateescape")).replace("\r\n", "\n")
    return {char for char in text if not char.isprintable() and char not in "\n\t"}


def on_terminal(*command: str, **environment: str) -> bytes:
    """All that a command writes to a terminal on which its stdout and stderr are."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=REPOSITORY, stdin=subprocess.DEVNULL,
        stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:  # how a pseudo-terminal ends, pty(7)
        pass
    os.close(ours)
    process.wait()
    return seen


def hostile(schema: dict[str, Any], name: str = "") -> Any:
    """A value of that JSON Schema whose free texts are all HOSTILE, and whose lists have one item."""
    if "$ref" in schema:
        schema = OPENAPI["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return hostile(schema[union][0], name)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object" if "properties" in schema:
            return {key: hostile(value, key) for key, value in schema["properties"].items()}
        case "object":
            return {HOSTILE: hostile(schema.get("additionalProperties") or {"type": "string"})}
        case "array":
            return [hostile(schema["items"])] if "items" in schema else [HOSTILE]
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "null":
            return None
    return "2025-01-01T12:00:00Z" if name.endswith("_at") else HOSTILE


def hostile_answer(method: str, path: str) -> Any:
    """The answer to a request of which every text is hostile."""
    for template, operations in OPENAPI["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) and method in operations:
            success = next(
                value for key, value in operations[method]["responses"].items() if key < "3"
            )
            (content,) = success["content"].values()
            return hostile(content["schema"])
    raise LookupError(f"the API has no {method} {path}")


COMMANDS = {
    "submit": ["M"],
    "resume": ["k2"],
    "retry": ["k2"],
    "pause": ["k2"],
    "cancel": ["k2"],
    "move": ["k2"],
    "rm": ["k2"],
    "status": ["k2"],
    "list": [],
    "top": [],
    "notify": [],
    "artifacts": ["k2"],
    "download": ["k2"],
    "provenance": ["k2"],
    "diff": ["k2", "k2"],
    "checkpoints": ["k2"],
    "doc": ["k2"],
    "graph": ["k2"],
    "validate": ["M"],
    "plan": ["M"],
    "lock": ["M"],
    "checkpoint-types": [],
    "migrate": ["M"],
    "df": [],
    "gc": [],
    "config": [],
    "metrics": [],
    "doctor": [],
    "version": [],
    "events": ["k2"],
    "logs": ["k2"],
    "follow": ["k2"],
    "completion": ["--words", "3", "--", "dcctl", "download", "k2", ""],
}
"""Arguments of each command that prints what the daemon says; M is a manifest."""

OTHERS = {
    "build": "prints what follow and download do",
    "reproduce": "test_cli_reproduce.py",
    "rebuild": "test_rebuilds.py",
    "export": "prints only the path that was given",
    "bisect": "prints what printable returns, line by line",
    "init": "asks no daemon",
    "completion": "asks no daemon",
    "verify": "asks no daemon",
    "shell": "below",
    "web": "prints only its own address",
    "backup": "prints only the path that was given",
    "hosts": "prints a table as df does",
}

MORE = (
    ["artifacts", "k2", "--verify"],
    ["config", "--reload"],
    ["events", "k2", "--verify"],
    ["events", "k2", "--follow"],
    ["list", "--ids"],
    ["status", "all"],
    ["logs", "k2", "--follow"],
    ["notify", "test"],
)


@pytest.fixture
def hostile_build(daemon):
    """A failed build that was resumed with another manifest, of which all texts are hostile."""
    build = daemon.build(name=HOSTILE, **{f"c{HOSTILE}": 1.0})
    checkpoint = build.view["checkpoints"][0]["name"]
    error = ev.ErrorInfo(HOSTILE, HOSTILE, HOSTILE)
    plan = build.events[0]["data"]["plan"]
    build.tell(
        ev.BuildStarted(),
        ev.BuildPaused(HOSTILE),
        ev.BuildResumed(manifest="<dc/>", manifest_path=f"/{HOSTILE}", inputs=(ev.InputFile(HOSTILE, "d"),)),
        ev.BuildStarted(),
        ev.CheckpointStarted(checkpoint, 1, "k", "/l"),
        ev.CheckpointInterrupted(checkpoint, 1, HOSTILE),
        ev.CheckpointStarted(checkpoint, 2, "k", "/l"),
        ev.CheckpointFailed(checkpoint, 2, error, 1.0),
        ev.BuildFailed(checkpoint, error),
    )  # fmt: skip
    assert plan
    build.logs[checkpoint, 2] = HOSTILE.encode() + b"\nbad \x9b bytes \xc2\x9b\nseen\n"
    build.view["actor"]["user"] = build.view["reason"] = build.view["pause_before"] = HOSTILE
    build.view["artifacts"] = [
        {"name": HOSTILE, "path": f"/{HOSTILE}", "format": HOSTILE, "size_bytes": 1, "sha256": HOSTILE}
    ]  # fmt: skip
    for event in build.events:
        event["actor"]["user"] = HOSTILE
    return build


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(
    "command", [*([name, *rest] for name, rest in COMMANDS.items()), *MORE], ids=" ".join
)
def test_no_command_passes_what_steers_a_terminal(
    daemon, hostile_build, tmp_path, command, as_json
) -> None:
    from_fake = command[0] in ("events", "logs", "follow", "status") and "--verify" not in command
    respond = daemon.respond

    def answer(request):
        if request.path == "/v1/groups/all":
            return 200, hostile_answer("get", request.path)
        if request.path.startswith("/v1/groups/"):
            return 404, {"type": "urn:dcd:problem:not-found", "title": HOSTILE}
        if from_fake or request.path.endswith(("/events", "/logs")):
            return respond(request)
        if request.path == "/metrics" or request.path.endswith("/graph"):
            return 200, HOSTILE
        found = hostile_answer(request.method.lower(), request.path)
        if request.path == "/v1/builds/k2" and request.method == "GET":
            found["state"] = "completed"  # or rm would not go on
        return 200, found

    daemon.respond = answer
    (tmp_path / "m.xml").write_text("<dc/>")
    line = [str(tmp_path / "m.xml") if part == "M" else part for part in command]
    seen = on_terminal(
        "cli.main", *line, *(["--json"] if as_json else []), DCD_SOCKET=daemon.socket
    )
    assert len(seen) > 20, "it shows something"
    assert b"Traceback" not in seen
    assert not steering(seen)


def test_every_command_that_prints_what_the_daemon_says_is_tried_above() -> None:
    assert set(COMMANDS) | set(OTHERS) == set(NAMES)


def test_a_problem_and_its_diagnostics_pass_nothing(daemon, tmp_path) -> None:
    (tmp_path / "m.xml").write_text("<dc/>")
    for extra in ({}, {"diagnostics": [hostile({"$ref": "#/components/schemas/Diagnostic"})]}):
        problem = {"type": "urn:dcd:problem:usage", "title": HOSTILE, "detail": HOSTILE, **extra}
        daemon.respond = lambda request, problem=problem: (400, problem)
        for options in ([], ["--json"]):
            command = ["plan", str(tmp_path / "m.xml"), *options]
            seen = on_terminal("cli.main", *command, DCD_SOCKET=daemon.socket)
            assert b"title" in seen
            assert not steering(seen)


def test_distro_const_shows_output_of_tools_as_escapes(daemon, hostile_build, tmp_path) -> None:
    (tmp_path / "m.xml").write_text("<dc/>")
    daemon.answers["POST", "/v1/builds"] = 201, hostile_build.view
    hostile_build.logs[hostile_build.view["checkpoints"][0]["name"], 1] = b"first\n"
    seen = on_terminal(
        "cli.distro_const", "build", "-v", str(tmp_path / "m.xml"), DCD_SOCKET=daemon.socket
    )
    assert b"\\x1b]0;title" in seen
    assert not steering(seen)


def test_the_banner_of_a_shell_passes_nothing(capsys) -> None:
    from cli.commands.shell import _explain

    for in_image in (False, True):
        _explain({"build": HOSTILE, "place": HOSTILE, "root": HOSTILE}, in_image)
    assert not steering(capsys.readouterr().err.encode())


def test_logs_on_a_terminal_shows_controls_as_escapes_and_ends_lines_at_carriage_returns(
    daemon, hostile_build
) -> None:
    checkpoint = hostile_build.view["checkpoints"][0]["name"]
    hostile_build.logs[checkpoint, 2] = (
        b"a\x1b[31mb\r\n10%\r20%\n\x9b \xc2\x9b \xe2\x80\xae \xc3\xa9\n"
    )
    seen = on_terminal("cli.main", "logs", "k2", DCD_SOCKET=daemon.socket).decode()
    assert seen.replace("\r\n", "\n").splitlines() == [
        "a\\x1b[31mb",
        "10%",
        "20%",
        "\\x9b \\x9b \\u202e é",
    ]


def test_logs_raw_and_in_a_pipe_are_the_bytes(daemon, hostile_build) -> None:
    content = hostile_build.logs[hostile_build.view["checkpoints"][0]["name"], 2]
    raw = on_terminal("cli.main", "logs", "k2", "--raw", DCD_SOCKET=daemon.socket)
    assert raw.replace(b"\r\n", b"\n") == content
    piped = subprocess.run(
        [sys.executable, "-m", "cli.main", "logs", "k2"], cwd=REPOSITORY, capture_output=True,
        env={**os.environ, "DCD_SOCKET": daemon.socket}, check=True,
    )  # fmt: skip
    assert piped.stdout == content


def test_json_stays_the_same_value(dcctl, daemon) -> None:
    daemon.build(name=HOSTILE)
    assert json.loads(dcctl("status", "k2", "--json").out)["name"] == HOSTILE


@pytest.mark.parametrize("columns", [40, 50, 60])
def test_moving_lines_show_times_and_message_on_a_narrow_terminal(columns) -> None:
    from rich.console import Console

    from cli.draw import frame
    from cli.picture import Picture

    checkpoints = [
        {"name": name, "state": state, "estimate_seconds": seconds}
        for name, state, seconds in (
            ("transfer-deb", "completed", 90.0),
            ("ba-arch", "running", 60.0),
            ("create-iso", "pending", 3640.0),
        )
    ]
    picture = Picture({"name": "debian-live", "state": "running", "checkpoints": checkpoints})
    picture.started, picture.attempt_started = 0.0, 100.0
    message = "unpacking linux-image-6.1.0-18-amd64"
    picture.report(
        {"checkpoint": "ba-arch", "fraction": 0.35, "message": message, "build_fraction": 0.1}
    )
    console = Console(width=columns, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(frame(picture, 123.0, columns))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert lines[0] == "debian-live 1/3 2:03 / ~1:03:20 running"
    assert lines[1] == "ba-arch     35% 0:23 / ~1:00"
    assert lines[2].startswith("  unpacking linux-image-6.1.0")
    assert max(map(len, lines)) <= columns
