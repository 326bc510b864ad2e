"""The method script, run by dash, with stand-ins for the tools of illumos and for the daemon."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "smf" / "svc-dcd.sh"

TOOLS = {
    "sleep": "exec /bin/sleep 0.02",  # so that a second of the script is short here
    # The stand-ins work on files below $HERE: properties, the contract's members, what the daemon heard.
    "svcprop": '[ "$1" = -p ] && [ "$3" = "$SMF_FMRI" ] && cat "$HERE/properties/$2"',
    "pgrep": '[ "$1 $2" = "-c 42" ] && cat "$HERE/contract"',
    "pkill": '[ "$1 $2 $3" = "-KILL -c 42" ] || exit 2\n'
    'for pid in $(cat "$HERE/contract"); do kill -9 "$pid" 2>/dev/null && echo "$pid" >>"$HERE/killed"; done',
    "dcctl": '[ "$1 $3" = "--socket version" ] && [ "$2" = /var/run/dcd/dcd.sock ] && [ -e "$HERE/ready" ]',
    "dcd": """[ "$*" = "serve --from-smf" ] || exit 2
[ -e "$HERE/exit" ] && exit "$(cat "$HERE/exit")"
trap 'echo refreshed >>"$HERE/heard"' HUP
trap '[ -e "$HERE/stubborn" ] || { echo stopped >>"$HERE/heard"; exit 0; }' TERM
echo $$ >>"$HERE/contract"
: >"$HERE/ready"
while :; do sleep 0.05; done
""",
}


class Service:
    """One instance of the service in a directory."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.environment = {
            "PATH": f"{here}/bin:/usr/bin:/bin",
            "HERE": str(here),
            "SMF_FMRI": "svc:/application/dcd:default",
            "DCD_PID_FILE": str(here / "pid"),
        }
        (here / "bin").mkdir()
        (here / "properties" / "config").mkdir(parents=True)
        for name, text in TOOLS.items():
            tool = here / "bin" / name
            tool.write_text(f"#!/bin/sh\n{text}\n")
            tool.chmod(0o755)
        self.set("socket", "/var/run/dcd/dcd.sock")
        self.set("stop_grace_seconds", "1000")
        self.set("cancel_grace_seconds", "500")
        (here / "contract").touch()

    def set(self, name: str, value: str) -> None:
        (self.here / "properties" / "config" / name).write_text(value + "\n")

    def method(self, name: str, contract: str = "42") -> "subprocess.CompletedProcess[str]":
        # A test run under nohup ignores SIGHUP, and so would the stand-ins.
        command = ["env", "--default-signal=HUP", "dash", str(SCRIPT), name]
        command.append(str(self.here / "bin" / "dcd"))
        with (self.here / "log").open("a") as log:  # as SMF does: a file, not a pipe to wait for
            return subprocess.run(
                [*command, *([contract] if name != "start" and contract else [])],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                check=False,
                timeout=120,
            )

    def members(self) -> list[int]:
        return [int(line) for line in (self.here / "contract").read_text().split()]

    def heard(self) -> list[str]:
        path = self.here / "heard"
        return path.read_text().split() if path.exists() else []


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    for pid in service.members():
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_start_returns_only_when_the_socket_answers(service: Service) -> None:
    assert service.method("start").returncode == 0
    assert (service.here / "ready").exists()
    (pid,) = service.members()
    assert alive(pid)
    assert (service.here / "pid").read_text() == f"{pid}\n"


@pytest.mark.parametrize("code", [96, 100, 95, 1])
def test_a_daemon_that_cannot_start_gives_the_method_its_exit_code(
    service: Service, code: int
) -> None:
    (service.here / "exit").write_text(str(code))
    assert service.method("start").returncode == code


def test_a_daemon_that_ends_before_it_serves_has_failed(service: Service) -> None:
    (service.here / "exit").write_text("0")
    assert service.method("start").returncode == 95


def test_a_missing_command_or_property_is_fatal(service: Service) -> None:
    (service.here / "bin" / "dcd").unlink()
    assert service.method("start").returncode == 95
    (service.here / "properties/config/socket").unlink()
    assert service.method("start").returncode == 95


@pytest.mark.slow
def test_stop_asks_the_daemon_and_waits_for_it(service: Service) -> None:
    service.method("start")
    (pid,) = service.members()
    assert service.method("stop").returncode == 0
    assert service.heard() == ["stopped"]
    assert not alive(pid)
    assert not (service.here / "pid").exists()
    assert not (service.here / "killed").exists()


@pytest.mark.slow
def test_stop_ends_what_the_daemon_left_in_the_contract(service: Service) -> None:
    service.method("start")
    left = subprocess.Popen(["sleep", "1000"])
    with (service.here / "contract").open("a") as contract:
        contract.write(f"{left.pid}\n")
    assert service.method("stop").returncode == 0
    assert left.wait(30) == -signal.SIGKILL
    assert service.heard() == ["stopped"]


def test_stop_does_not_signal_a_process_that_took_the_number_of_the_daemon(
    service: Service,
) -> None:
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        (service.here / "pid").write_text(f"{bystander.pid}\n")
        assert service.method("stop").returncode == 0
        assert bystander.poll() is None
        (service.here / "pid").write_text(f"{bystander.pid}\n")
        assert service.method("refresh").returncode == 95
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_refresh_tells_only_the_daemon(service: Service) -> None:
    service.method("start")
    tool = subprocess.Popen(["sleep", "1000"])
    try:
        with (service.here / "contract").open("a") as contract:
            contract.write(f"{tool.pid}\n")
        assert service.method("refresh").returncode == 0
        deadline = time.monotonic() + 30
        while service.heard() != ["refreshed"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert service.heard() == ["refreshed"]
        assert tool.poll() is None
    finally:
        tool.kill()
        tool.wait()


def test_outside_smf_and_for_an_unknown_method_nothing_is_done(service: Service) -> None:
    assert service.method("bounce").returncode == 95
    assert service.method("stop", contract="").returncode == 95
    del service.environment["SMF_FMRI"]
    assert service.method("start").returncode == 99
    assert service.members() == []


def test_stop_kills_a_daemon_that_does_not_stop_within_its_grace(service: Service) -> None:
    service.set("stop_grace_seconds", "1")
    service.set("cancel_grace_seconds", "0")
    (service.here / "stubborn").touch()
    service.method("start")
    (pid,) = service.members()
    assert service.method("stop").returncode == 0
    assert not alive(pid)
    assert service.heard() == []
