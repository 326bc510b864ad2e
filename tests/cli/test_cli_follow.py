"""Following a build: what is shown, across restarts of the daemon, and how it ends."""

import contextlib
import hashlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.client import ClientError, Unreachable
from cli.stream import Message, follow
from statemachine import events as ev

REPOSITORY = Path(__file__).parents[2]
ERROR = ev.ErrorInfo("grub-mkrescue exited with status 1", "no space", "free some space")


def complete(build, *checkpoints: str) -> None:
    for checkpoint in checkpoints:
        build.tell(
            ev.CheckpointStarted(checkpoint, 1, "k", "/l"),
            ev.CheckpointCompleted(checkpoint, 1, "k", 41.2),
        )


def followed(daemon, **options: float) -> Iterator[Message]:
    """The messages of a build but its views."""
    messages = follow(daemon.socket, "k2p7abcd", **options)
    return (message for message in messages if message.kind != "build")


def without_times(text: str) -> list[str]:
    return [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in text.splitlines()]


@pytest.fixture
def start(daemon) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a dcctl that ends with the test."""
    with contextlib.ExitStack() as started:

        def run(*arguments: str, stdout=subprocess.PIPE, stderr=subprocess.PIPE):
            # A test run in the background ignores SIGINT, and so would what it starts.
            command = ["env", "--default-signal=INT", sys.executable, "-m", "cli.main"]
            process = subprocess.Popen(
                [*command, "--socket", daemon.socket, *arguments],
                cwd=REPOSITORY, stdout=stdout, stderr=stderr, text=True,
                env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
            )  # fmt: skip
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield run


def test_without_a_terminal_each_thing_that_happens_is_a_line_with_the_time(dcctl, daemon) -> None:
    build = daemon.build(transfer_deb=45.0, motd=1.0, create_iso=7.0)
    build.tell(ev.BuildPlaced("b.example", 1), ev.BuildStarted())
    complete(build, "transfer-deb")
    build.tell(ev.CheckpointReused("motd", "k", "7fa2wxyz"))
    build.tell(
        ev.CheckpointStarted("create-iso", 1, "k", "/l"),
        ev.CheckpointInterrupted("create-iso", 1, "daemon-died"),
        ev.CheckpointStarted("create-iso", 2, "k", "/l"),
        ev.CheckpointCompleted("create-iso", 2, "k", 5.0),
        ev.BuildCompleted(47.0),
    )
    build.view["artifacts"] = [
        {
            "name": "l.iso",
            "path": "/a/l.iso",
            "format": "iso",
            "size_bytes": 2048,
            "sha256": "a" * 64,
        }
    ]
    outcome = dcctl("follow", "k2")
    assert outcome.code == 0
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d live queued", outcome.out)
    assert without_times(outcome.out) == [
        "live queued, 3 checkpoints",
        "live taken by b.example",
        "live started",
        "transfer-deb started, about 45 s",
        "transfer-deb completed in 41 s",
        "motd reused from 7fa2wxyz",
        "create-iso started, about 7.0 s",
        "create-iso interrupted: daemon-died",
        "create-iso started again (attempt 2), about 7.0 s",
        "create-iso completed in 5.0 s",
        "live completed in 47 s",
        "live k2p7abcd: completed",
        "     2.0 KiB  /a/l.iso",
    ]


def test_a_failure_ends_with_the_reason_the_remedy_and_the_logs_last_lines(dcctl, daemon) -> None:
    build = daemon.build(boot_setup=1.0)
    build.logs["boot-setup", 1] = b"an older attempt\n"
    build.logs["boot-setup", 2] = b"".join(b"line %d\n" % number for number in range(1, 5001))
    build.tell(ev.BuildStarted(), ev.CheckpointStarted("boot-setup", 2, "k", "/l"))
    build.tell(
        ev.CheckpointFailed("boot-setup", 2, ERROR, 1.0), ev.BuildFailed("boot-setup", ERROR)
    )
    outcome = dcctl("follow", "k2")
    assert outcome.code == 3
    assert without_times(outcome.out)[3:] == [
        "boot-setup failed after 1.0 s",
        "live k2p7abcd: failed",
        "  grub-mkrescue exited with status 1",
        "  no space",
        "  free some space",
        "Log: dcctl logs k2p7abcd boot-setup",
        *(f"  | line {number}" for number in range(4991, 5001)),
        f"To inspect it: dcctl shell k2p7abcd{'' if os.geteuid() == 0 else ' (as root)'}",
        "After an edit: dcctl resume k2p7abcd --manifest /m.xml",
        "To run the checkpoint again unchanged: dcctl retry k2p7abcd",
    ]


@pytest.mark.parametrize(
    ("details", "place", "first"),
    [
        ("no space", "/m.xml:41", "/m.xml:41: error: it broke"),
        ("/m.xml:6 failed\n/m.xml line 8: gone", "/m.xml:5", "/m.xml:8: error: it broke"),
        ("in /files/a.sh line 3", "/m.xml:5", "/files/a.sh:3: error: it broke"),
        ("/usr/lib/x.py:17: fault, other/m.xml:3", "/m.xml:5", "/m.xml:5: error: it broke"),
        ("no space", "", "  it broke"),
    ],
)
def test_a_failure_begins_with_the_users_file_and_line(
    dcctl, daemon, details, place, first
) -> None:
    build = daemon.build(boot_setup=1.0)
    build.view["inputs"] = [{"path": "files/a.sh", "sha256": "", "mode": 0o644}]
    build.view["checkpoints"][0]["place"] = place
    error = ev.ErrorInfo("it broke", details, "")
    build.tell(ev.BuildStarted(), ev.CheckpointStarted("boot-setup", 1, "k", "/l"))
    build.tell(
        ev.CheckpointFailed("boot-setup", 1, error, 1.0), ev.BuildFailed("boot-setup", error)
    )
    lines = dcctl("follow", "k2").out.splitlines()
    assert lines[lines.index("live k2p7abcd: failed") + 1] == first
    assert first.replace("  it", "Error: it") in dcctl("status", "k2").out.splitlines()


def test_lines_that_the_error_shows_are_not_shown_again(dcctl, daemon) -> None:
    build = daemon.build(boot_setup=1.0)
    build.logs["boot-setup", 1] = b"making\nno such file\nexit 3\n"
    error = ev.ErrorInfo("broken", "its last lines:\nno such file\nexit 3", "")
    build.tell(ev.BuildStarted(), ev.CheckpointStarted("boot-setup", 1, "k", "/l"))
    build.tell(
        ev.CheckpointFailed("boot-setup", 1, error, 1.0), ev.BuildFailed("boot-setup", error)
    )
    told = dcctl("follow", "k2").out
    assert told.count("no such file") == 1
    assert "  | making\n" in told


def test_a_failure_says_which_files_have_changed_since_the_submit(dcctl, daemon, tmp_path) -> None:
    (tmp_path / "m.xml").write_text("<dc/>")
    (tmp_path / "post.sh").write_text("new")
    (tmp_path / "same.sh").write_text("same")
    build = daemon.build(boot_setup=1.0)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "beside.sh").write_text("same")
    (tmp_path / "files" / "edited.sh").write_text("new")
    inputs = (
        ev.InputFile(str(tmp_path / "post.sh"), hashlib.sha256(b"old").hexdigest()),
        ev.InputFile(str(tmp_path / "same.sh"), hashlib.sha256(b"same").hexdigest()),
        ev.InputFile(str(tmp_path / "gone.sh"), hashlib.sha256(b"gone").hexdigest()),
        # The view has paths as the manifest writes them: relative ones begin at its directory.
        ev.InputFile("files/beside.sh", hashlib.sha256(b"same").hexdigest()),
        ev.InputFile("files/edited.sh", hashlib.sha256(b"old").hexdigest()),
    )
    build.view["manifest_path"] = str(tmp_path / "m.xml")
    build.view["inputs"] = [{"path": item.path, "sha256": item.sha256} for item in inputs]
    build.tell(ev.BuildStarted(), ev.BuildFailed("boot-setup", ERROR))
    command = f"dcctl resume k2p7abcd --manifest {tmp_path}/m.xml"
    said = [
        f"{tmp_path}/m.xml was written after the submit: {command}",
        f"{tmp_path}/post.sh has changed since the submit: {command}",
        f"{tmp_path}/gone.sh was removed since the submit: {command}",
        f"{tmp_path}/files/edited.sh has changed since the submit: {command}",
    ]
    for arguments in (("follow", "k2"), ("status", "k2")):
        assert dcctl(*arguments).out.splitlines()[-5:-1] == said
    daemon.answers["POST", "/v1/builds/k2/retry"] = 200, build.view
    daemon.answers["POST", "/v1/builds/k2/resume"] = (
        200,
        {"build": build.view, "kept": [], "rerun": []},
    )
    for arguments in (("retry", "k2"), ("resume", "k2")):
        assert dcctl(*arguments).err.splitlines() == [f"dcctl: warning: {line}" for line in said]


def test_what_happened_before_the_newest_resume_is_counted_and_not_shown(dcctl, daemon) -> None:
    build = daemon.build(transfer_deb=45.0, create_iso=7.0)
    build.tell(ev.BuildStarted())
    complete(build, "transfer-deb")
    build.tell(ev.PauseRequested(), ev.BuildPaused("x"), ev.BuildResumed(), ev.BuildStarted())
    complete(build, "create-iso")
    build.tell(ev.BuildCompleted(9.0))
    assert without_times(dcctl("follow", "k2").out) == [
        "live resumed",
        "live started",
        "create-iso started, about 7.0 s",
        "create-iso completed in 41 s",
        "live completed in 9.0 s",
        "live k2p7abcd: completed",
    ]
    shown = [json.loads(line)["type"] for line in dcctl("follow", "k2", "--json").out.splitlines()]
    assert shown[0] == "BuildResumed"
    with_another = ev.BuildResumed(manifest="<dc/>", manifest_path="/other.xml")
    build.tell(ev.BuildFailed(None, ERROR), with_another, ev.BuildStarted(), ev.BuildCompleted(1.0))
    assert without_times(dcctl("follow", "k2").out)[0] == "live resumed with /other.xml"


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ([ev.BuildCompleted()], 0),
        ([ev.BuildFailed(None, ERROR)], 3),
        ([ev.PauseRequested(), ev.BuildPaused("before x")], 4),
        ([ev.CancelRequested(), ev.BuildCancelled()], 5),
    ],
)
@pytest.mark.parametrize(
    "command", [["follow", "k2"], ["follow", "k2", "--json"], ["events", "k2", "--follow"]]
)
def test_the_exit_code_is_that_of_the_state(dcctl, daemon, ending, code, command) -> None:
    daemon.build().tell(ev.BuildStarted(), *ending)
    assert dcctl(*command).code == code


def test_submit_follow_prints_the_id_on_stdout_and_shows_the_build_on_stderr(
    dcctl, daemon, tmp_path
) -> None:
    (tmp_path / "m.xml").write_text("<dc/>")
    build = daemon.build()
    build.tell(ev.BuildStarted())
    complete(build, "transfer-deb")
    build.tell(ev.BuildCompleted(41.0))
    daemon.answers["POST", "/v1/builds"] = 201, build.view
    outcome = dcctl("submit", str(tmp_path / "m.xml"), "--follow")
    assert (outcome.code, outcome.out) == (0, "k2p7abcd\n")
    assert "transfer-deb completed in 41 s" in outcome.err


def test_resume_follow_shows_the_build_to_its_end(dcctl, daemon) -> None:
    build = daemon.build()
    build.tell(ev.BuildStarted(), ev.PauseRequested(), ev.BuildPaused("x"), ev.BuildResumed())
    build.tell(ev.BuildStarted())
    complete(build, "transfer-deb")
    build.tell(ev.BuildCompleted())
    answer = {"build": build.view, "kept": [], "rerun": []}
    daemon.answers["POST", "/v1/builds/k2/resume"] = 200, answer
    outcome = dcctl("resume", "k2", "--follow")
    assert outcome.code == 0
    assert "live resumed" in outcome.err


def test_json_is_an_object_a_line_with_progress_between_events(daemon, start) -> None:
    build = daemon.build()
    process = start("follow", "k2", "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["type"] == "BuildSubmitted"
    build.tell(ev.BuildStarted(), ev.CheckpointStarted("transfer-deb", 1, "k", "/l"))
    assert json.loads(process.stdout.readline())["type"] == "BuildStarted"
    assert json.loads(process.stdout.readline())["type"] == "CheckpointStarted"
    build.report("transfer-deb", 0.25, "unpacking")
    progress = json.loads(process.stdout.readline())
    assert (progress["type"], progress["fraction"]) == ("progress", 0.25)
    build.tell(ev.BuildCompleted())
    assert json.loads(process.stdout.readline())["type"] == "BuildCompleted"
    assert process.communicate() == ("", "")
    assert process.returncode == 0


def test_no_event_is_lost_or_told_twice_when_streams_are_cut(daemon) -> None:
    build = daemon.build(**{f"c{number}": 1.0 for number in range(8)})
    build.tell(ev.BuildStarted())
    complete(build, *(f"c{number}" for number in range(8)))
    build.tell(ev.BuildCompleted())
    daemon.cut_streams_after = 3
    told = [message.data for message in follow(daemon.socket, "k2") if message.kind == "event"]
    assert told == build.events


def test_following_goes_on_after_the_daemon_was_killed_and_says_so_once(daemon) -> None:
    build = daemon.build()
    messages = followed(daemon)
    assert next(messages).data["type"] == "BuildSubmitted"
    daemon.kill()
    assert next(messages).kind == "away"
    restart = threading.Timer(0.5, daemon.start)  # some attempts fail before
    restart.start()
    assert next(messages).kind == "back"
    restart.join()
    build.tell(ev.BuildStarted(), ev.BuildCompleted())
    assert [message.data["type"] for message in messages] == ["BuildStarted", "BuildCompleted"]


def test_a_daemon_that_cannot_serve_yet_after_its_restart_is_waited_for(
    daemon, monkeypatch
) -> None:
    build = daemon.build()
    build.tell(ev.BuildStarted(), ev.BuildCompleted())
    starting = 503, {"type": "urn:dcd:problem:unavailable", "title": "starting", "status": 503}
    daemon.answers["GET", "/v1/builds/k2p7abcd"] = starting
    messages = followed(daemon)
    kinds = [next(messages).kind for _ in range(4)]
    assert kinds == ["event", "event", "event", "away"]
    del daemon.answers["GET", "/v1/builds/k2p7abcd"]
    assert [message.kind for message in messages] == ["back"]


def test_patience_with_an_absent_daemon_ends(daemon) -> None:
    daemon.build()
    messages = followed(daemon, patience_seconds=0.0)
    next(messages)
    daemon.kill()
    assert next(messages).kind == "away"
    with pytest.raises(Unreachable):
        next(messages)


def test_a_build_that_does_not_exist_is_not_waited_for(dcctl, daemon) -> None:
    assert dcctl("follow", "nope").code == 7
    with pytest.raises(ClientError):
        next(follow(daemon.socket, "nope"))


def test_a_stream_that_ends_early_at_an_old_verdict_is_opened_again(daemon) -> None:
    # A failed build that was resumed: the stream is not over where the failure is.
    build = daemon.build()
    build.tell(ev.BuildStarted(), ev.BuildFailed(None, ERROR))
    messages = followed(daemon)
    told = [next(messages).data["type"] for _ in range(3)]
    build.tell(ev.BuildResumed(), ev.BuildStarted(), ev.BuildCompleted())
    told += [message.data["type"] for message in messages]
    assert told[2:] == ["BuildFailed", "BuildResumed", "BuildStarted", "BuildCompleted"]


def test_progress_without_a_terminal_does_not_flood(monkeypatch) -> None:
    from cli.follow import _plain
    from cli.picture import Line

    now = [100.0]
    monkeypatch.setattr("cli.follow.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with _plain(stream) as tell:
        for now[0] in (100.0, 101.0, 109.0, 110.5, 111.0):
            tell(Line("progress", "transfer-deb", f"at {now[0]}"))
        tell(Line("note", "live", "pausing"))
    assert without_times(stream.getvalue()) == [
        "transfer-deb at 100.0", "transfer-deb at 110.5", "live pausing",
    ]  # fmt: skip


def on_terminal(start, *arguments: str) -> tuple[subprocess.Popen, int]:
    """dcctl with stdout and stderr on a terminal, and the terminal's other side."""
    ours, theirs = pty.openpty()
    process = start(*arguments, stdout=theirs, stderr=theirs)
    os.close(theirs)
    return process, ours


def read_until(terminal: int, text: str) -> str:
    seen = ""
    while text not in seen:
        seen += os.read(terminal, 4096).decode()
    return seen


def read_rest(terminal: int) -> str:
    seen = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            piece = b""
        if not piece:
            os.close(terminal)
            return seen.decode()
        seen += piece


def test_on_a_terminal_two_lines_move_and_finished_checkpoints_scroll(daemon, start) -> None:
    build = daemon.build(transfer_deb=45.0, create_iso=7.0)
    process, terminal = on_terminal(start, "follow", "k2")
    build.tell(ev.BuildStarted())
    complete(build, "transfer-deb")
    build.tell(ev.CheckpointStarted("create-iso", 1, "k", "/l"))
    build.report("create-iso", 0.5, "writing \x1b[2J the image")
    seen = read_until(terminal, "writing")
    assert "transfer-deb  41 s" in seen
    frame = seen[seen.rindex("1/2") :]
    assert "running" in frame
    assert re.search(r"50% .*/ ~0:07", frame)
    build.tell(ev.CheckpointCompleted("create-iso", 1, "k", 7.0), ev.BuildCompleted(48.0))
    rest = read_rest(terminal)
    assert process.wait() == 0
    assert "live k2p7abcd: " in rest
    assert "\x1b[2J" not in seen + rest
    assert rest.rstrip().endswith("completed\x1b[0m")


def test_ctrl_c_ends_only_the_following(daemon, start) -> None:
    build = daemon.build()
    build.tell(ev.BuildStarted())
    process, terminal = on_terminal(start, "follow", "k2")
    read_until(terminal, "running")
    process.send_signal(signal.SIGINT)
    rest = read_rest(terminal)
    assert process.wait() == 130
    assert "The build continues; to follow it again: dcctl follow k2p7abcd" in rest
    assert "Traceback" not in rest
    assert not any(request.method == "POST" for request in daemon.requests)
