"""The systemd units: accepted by systemd's own checkers, explained, and in step with the daemon."""

import shutil
import subprocess
from pathlib import Path

import pytest

from dcd.configuration import Configuration

UNITS = Path(__file__).parents[2] / "systemd"
HIGHEST_EXPOSURE = 51
"""Tenths of systemd-analyze's scale; building images as root has no lower one."""


def directives(name: str) -> list[tuple[str, str]]:
    lines = (UNITS / name).read_text().splitlines()
    return [
        (key, value)
        for key, _, value in (line.partition("=") for line in lines)
        if value and not key.startswith(("#", "["))
    ]


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as they are installed, with a command that exists here."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    service = (UNITS / "dcd.service").read_text()
    command = dict(directives("dcd.service"))["ExecStart"]
    (tmp_path / "dcd.service").write_text(service.replace(command, "/bin/true"))
    shutil.copy(UNITS / "dcd.socket", tmp_path)
    return tmp_path


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_systemd_accepts_the_units_without_a_word(units: Path) -> None:
    result = analyze("verify", "--man=no", units / "dcd.service", units / "dcd.socket")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    service = (units / "dcd.service").read_text()
    (units / "dcd.service").write_text(service.replace("NoNewPrivileges", "NoNewPrivilegs"))
    result = analyze("verify", "--man=no", units / "dcd.service")
    assert "NoNewPrivilegs" in result.stderr


def test_exposure_is_no_higher_than_it_was(units: Path) -> None:
    def check(threshold: int) -> int:
        limit = f"--threshold={threshold}"
        return analyze("security", "--offline=true", limit, units / "dcd.service").returncode

    assert check(HIGHEST_EXPOSURE) == 0
    assert check(1) != 0


def test_each_hardening_directive_has_its_reason() -> None:
    text = (UNITS / "dcd.service").read_text()
    hardening = text[text.index("# Hardening") : text.index("[Install]")].splitlines()
    explained = True
    previous = ""
    for line in hardening:
        name = line.partition("=")[0]
        if line.startswith("#"):
            explained = True
        elif not line:
            explained = False
        else:
            assert explained or name == previous or _same_matter(name, previous), line
            explained = False
            previous = name


def _same_matter(name: str, previous: str) -> bool:
    """Whether one reason stands for both: neighbours that begin alike."""
    return (
        name[:7] == previous[:7]
        or {name, previous} <= {"DevicePolicy", "DeviceAllow"}
        or (name == "SystemCallErrorNumber")
    )


def test_the_manager_waits_longer_than_checkpoints_may_go_on() -> None:
    configuration = Configuration()
    stop = dict(directives("dcd.service"))["TimeoutStopSec"]
    assert stop.endswith("min")
    grace = configuration.stop_grace_seconds + configuration.cancel_grace_seconds
    assert int(stop.removesuffix("min")) * 60 > grace


def test_the_socket_is_where_the_daemon_and_dcctl_look_for_it() -> None:
    socket = dict(directives("dcd.socket"))
    configuration = Configuration()
    assert Path(socket["ListenStream"]) == configuration.socket
    assert socket["SocketMode"] == str(configuration.socket_mode)
    assert socket["SocketGroup"] == configuration.group
    assert (UNITS / "tmpfiles.conf").read_text().split("\n")[1] == (
        f"d {configuration.socket.parent} 0750 root {configuration.group} -"
    )


def test_workers_keep_the_namespaces_and_capabilities_that_they_cannot_do_without() -> None:
    values = directives("dcd.service")
    capabilities = " ".join(value for key, value in values if key == "CapabilityBoundingSet")
    for capability in ("SYS_ADMIN", "SYS_CHROOT", "MKNOD", "CHOWN", "SETUID", "SETFCAP", "KILL"):
        assert f"CAP_{capability}" in capabilities.split()
    for forbidden in ("SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "SYS_TIME", "BPF"):
        assert f"CAP_{forbidden}" not in capabilities
    namespaces = dict(values)["RestrictNamespaces"].split()
    assert {"mnt", "pid", "net"} <= set(namespaces)
    assert "user" not in namespaces


def test_sysusers_makes_the_group(tmp_path: Path) -> None:
    if not shutil.which("systemd-sysusers"):
        pytest.skip("systemd-sysusers is not installed")
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", "--replace=/usr/lib/sysusers.d/dcd.conf", "-"],
        input=(UNITS / "sysusers.conf").read_text(),
        text=True,
        check=True,
        timeout=60,
    )
    assert "\ndcd:x:" in "\n" + (tmp_path / "etc/group").read_text()
