"""Reaching the daemon, and every way in which that fails."""

import grp
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.client import ClientError, Unreachable, build_path, request

REPOSITORY = Path(__file__).parents[2]


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """A server on a Unix socket that says the same to everybody and hangs up."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join()


def test_a_daemon_that_is_not_there_gives_9_and_the_remedy(dcctl, daemon) -> None:
    daemon.kill()
    daemon.path.unlink()
    outcome = dcctl("list")
    assert outcome.code == 9
    assert outcome.out == ""
    assert f"cannot reach the daemon on {daemon.socket}" in outcome.err
    assert "--socket PATH or $DCD_SOCKET" in outcome.err


def test_a_socket_that_a_dead_daemon_left_gives_9(dcctl, daemon) -> None:
    daemon.kill()
    outcome = dcctl("list")
    assert outcome.code == 9
    assert "Connection refused" in outcome.err


def test_a_socket_path_too_long_for_the_kernel_is_explained(dcctl) -> None:
    outcome = dcctl("list", "--socket", "/tmp/" + "x" * 200)
    assert outcome.code == 9
    assert "too long" in outcome.err


def refused(socket_path: str) -> ClientError:
    """The error of somebody without the socket's group."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)  # root may connect to every socket
    try:
        with pytest.raises(ClientError) as caught:
            request(socket_path, "GET", "/v1/builds")
    finally:
        if was_root:
            os.seteuid(0)
    assert caught.value.exit_code == 10
    return caught.value


@pytest.mark.root
def test_a_forbidden_socket_names_its_group_and_the_command(daemon) -> None:
    daemon.path.chmod(0o000)
    os.chown(daemon.path, 0, 4242)
    error = refused(daemon.socket)
    assert "members of group 4242" in error.details
    assert "usermod -a -G 4242 nobody" in error.resolution


@pytest.mark.root
@pytest.mark.parametrize("group", ["root", "disk", "shadow", "adm"])
def test_nobody_is_advised_to_join_a_group_of_the_system(daemon, group) -> None:
    daemon.path.chmod(0o000)
    os.chown(daemon.path, 0, grp.getgrnam(group).gr_gid)
    error = refused(daemon.socket)
    assert "usermod" not in error.resolution
    assert "setting group" in error.resolution


@pytest.mark.root
def test_the_group_of_a_directory_that_hides_the_socket_counts(daemon) -> None:
    daemon.path.parent.chmod(0o700)
    assert "usermod" not in refused(daemon.socket).resolution


def test_the_service_is_named_only_where_it_is_installed_and_meant(
    dcctl, daemon, tmp_path, monkeypatch
) -> None:
    daemon.kill()
    monkeypatch.setattr("cli.client.UNIT_DIRECTORIES", (str(tmp_path),))
    assert f"dcd serve --socket {daemon.socket}" in dcctl("list").err
    monkeypatch.setattr("cli.client.service_socket", lambda: daemon.socket)
    assert "systemctl" not in dcctl("list").err
    (tmp_path / "dcd.service").touch()
    assert "systemctl status dcd says why" in dcctl("list").err
    monkeypatch.setattr("cli.client.service_socket", lambda: "/other")
    assert "systemctl" not in dcctl("list").err


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("internal", 500, 1),
        ("usage", 400, 2),
        ("refused", 409, 6),
        ("not-found", 404, 7),
        ("invalid-manifest", 422, 8),
        ("unavailable", 503, 9),
        ("permission", 403, 10),
        ("unprepared", 424, 11),
        ("of-a-later-version", 418, 1),
    ],
)
def test_a_problem_sets_the_exit_code_and_is_told_whole(
    dcctl, daemon, kind: str, status: int, code: int
) -> None:
    problem = {
        "type": f"urn:dcd:problem:{kind}",
        "title": "No.",
        "detail": "Why.",
        "resolution": "Do.",
    }
    daemon.answers["GET", "/v1/doctor"] = status, problem
    outcome = dcctl("doctor")
    assert outcome.code == code
    assert outcome.err == "dcctl: error: No.\n  Why.\n  Do.\n"


def test_with_json_the_error_is_json_on_stderr(dcctl) -> None:
    outcome = dcctl("status", "nope", "--json")
    assert outcome.code == 7
    assert outcome.out == ""
    error = json.loads(outcome.err)
    assert error["error"] == "not-found"
    assert error["brief"] == "there is no build nope"


def test_an_error_cannot_steer_the_terminal(dcctl, daemon) -> None:
    daemon.answers["GET", "/v1/doctor"] = (
        500,
        {"type": "urn:dcd:problem:internal", "title": "a\x1b[2Jb"},
    )
    assert "\x1b" not in dcctl("doctor").err


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "lost the daemon"),
        (b"", "lost the daemon"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "lost the daemon"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "is not a dcd daemon"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope", "answered 404 Not Found"),
    ],
)
def test_something_that_is_not_dcd_is_told_without_a_traceback(
    daemon, tmp_path: Path, answer: bytes, said: str
) -> None:
    path = daemon.path.with_name("other")
    with answering(path, answer), pytest.raises(ClientError) as caught:
        request(str(path), "GET", "/v1/builds")
    assert said in caught.value.brief


def test_an_answer_given_before_the_body_was_read_is_still_heard(daemon) -> None:
    path = daemon.path.with_name("early")
    answer = (
        b"HTTP/1.1 413 Too Large\r\nContent-Type: application/problem+json\r\nContent-Length: 60\r\n\r\n"
        b'{"type": "urn:dcd:problem:usage", "title": "body too large"}'
    )
    with answering(path, answer), pytest.raises(ClientError) as caught:
        request(str(path), "POST", "/v1/builds", body="x" * 10_000_000)
    assert caught.value.brief == "body too large"


def test_a_daemon_that_goes_away_is_worth_waiting_for(daemon) -> None:
    daemon.kill()
    with pytest.raises(Unreachable):
        request(daemon.socket, "GET", "/v1/builds")


def test_a_build_name_cannot_reach_another_path() -> None:
    assert build_path("../x?y", "logs") == "/v1/builds/..%2Fx%3Fy/logs"


def test_a_reader_that_has_seen_enough_ends_the_command_silently(daemon) -> None:
    build = daemon.build()
    build.view["checkpoints"] *= 20_000  # more than a pipe holds
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "--socket", daemon.socket, "status", "k2"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_output_that_cannot_be_written_is_an_error(daemon) -> None:
    daemon.build()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "--socket", daemon.socket, "status", "k2"],
            cwd=REPOSITORY, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "dcctl: error: [Errno 28] No space left on device\n"


def test_no_color_is_honoured_and_a_pipe_is_never_coloured(
    daemon, dcctl: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    import cli.text

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[31m" in cli.text.coloured("failed", "failed", sys.stdout)
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli.text.coloured("failed", "failed", sys.stdout) == "failed"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert cli.text.coloured("failed", "failed", sys.stdout) == "failed"
