"""`dcctl build` with a daemon of its own: what it leaves when it ends, is interrupted or killed, and that the
same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.daemon]

SECONDS = 120.0


class Place:
    """A manifest with a script that waits for the file `go`, and commands that build it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest = directory / "small.xml"
        self.script = directory / "hello.sh"
        self.script.write_text("echo hello\n")
        self.write("true")

    def write(self, command: str) -> None:
        kind = 'mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript"'
        self.manifest.write_text(
            f'<dc><distro name="small"><execution><checkpoint name="first" {kind}><kwargs>'
            f'<arg name="script">hello.sh</arg></kwargs></checkpoint><checkpoint name="second" {kind}>'
            f"<args>{command}</args></checkpoint></execution></distro></dc>"
        )

    def write_gate(self) -> Path:
        """Let the build wait for the file that is returned."""
        gate = self.directory / "gate"
        self.write(f"until test -e {gate}; do sleep 0.1; done")
        writes = (
            f'<kwargs><arglist name="writes"><argitem>{self.directory}</argitem></arglist></kwargs>'
        )
        self.manifest.write_text(self.manifest.read_text().replace("</args>", f"</args>{writes}"))
        return gate

    def start(self, *options: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "cli.main", "build", str(self.manifest), *options]
        environment = {k: v for k, v in os.environ.items() if k != "DCD_SOCKET"}
        return subprocess.Popen(
            [*command, "-o", str(self.directory / "out")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **environment,
                "XDG_STATE_HOME": str(self.directory),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
        )

    def build(self, *options: str, code: int = 0) -> str:
        process = self.start(*options)
        printed, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == code, printed
        return printed

    def daemons(self) -> list[str]:
        """The processes that name the state directory."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if f"serve --state-dir {self.directory}" in line:
                found.append(line)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield (made := Place(tmp_path))
    until(lambda: not made.daemons())


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lines_until(process: "subprocess.Popen[str]", text: str) -> str:
    """What it prints, to the line with the text."""
    assert process.stdout is not None
    said = ""
    while line := process.stdout.readline():
        said += line
        if text in line:
            return said
    pytest.fail(f"it ended without {text!r}: {said}")


def next_line(process: "subprocess.Popen[str]", text: str) -> str:
    return lines_until(process, text).splitlines()[-1]


def test_its_files_are_the_users_and_its_daemon_ends_with_it(place: Place) -> None:
    printed = place.build("--json")
    (document,) = (line for line in printed.splitlines() if line.startswith("{"))
    found = json.loads(document)
    assert found["build"]["state"] == "completed"
    assert str(place.directory / "out/SHA256SUMS") in [item["path"] for item in found["files"]]
    assert all(Path(item["path"]).is_file() for item in found["files"])
    assert place.daemons() == []
    assert "first reused" in place.build(), "the state stays for the next time"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_what_was_interrupted_goes_on_with_the_same_command(place: Place, number: int) -> None:
    gate = place.write_gate()
    process = place.start()
    next_line(process, "second started")
    process.send_signal(number)
    # The daemon, for which Ctrl-C waits, lets a running checkpoint end.
    gate.touch()
    process.wait(SECONDS)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    until(lambda: not place.daemons())
    place.write("echo edited")
    printed = place.build()
    assert "first reused" in printed
    assert "second completed" in printed


def test_a_failed_build_goes_on_with_the_edited_manifest(place: Place) -> None:
    place.write("exit 3")
    failed = place.build(code=3)
    assert "the same command again" in failed
    identity = failed.split("small ")[-1].split(":")[0]
    place.write("echo corrected")
    printed = place.build()
    assert f"continuing build {identity}" in printed
    assert "first completed" not in printed


def test_two_at_once_share_the_daemon_and_the_last_one_ends_it(place: Place) -> None:
    gate = place.write_gate()
    first = place.start()
    next_line(first, "small started")
    second = place.start("--fresh")
    said = lines_until(second, "small started")
    gate.touch()
    out = [process.communicate(timeout=SECONDS)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), out
    assert "private daemon" not in said + out[1]


def test_watching_builds_again_what_a_change_needs_with_a_line_for_each_build(place: Place) -> None:
    process = place.start("--watch")
    assert "ran first, second (0 reused)" in next_line(process, "small: ran")
    place.manifest.write_text(place.manifest.read_text().replace("true", "echo changed"))
    assert "ran second (1 reused)" in next_line(process, "small: ran")
    place.script.write_text("exit 1\n")
    assert "failed: " in next_line(process, "small: ran")
    place.script.write_text("echo corrected\n")
    assert "new: " in next_line(process, "small: ran")
    place.manifest.write_text("<dc>")
    next_line(process, "error")
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130
