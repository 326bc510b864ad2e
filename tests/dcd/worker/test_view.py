"""A worker sees of the host what is listed, and nothing else: files are put where hosts keep what is none of
a build's business, and looked for from inside."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dcd.launcher.bounds import granted
from dcd.launcher.orders import AttemptOrder, Bounds, Wanted
from dcd.worker.messages import Completed, Failed
from dcd.worker.request import Grants
from store.host.view import links
from tests.dcd.worker.conftest import MOUNTING, Bench, said

pytestmark = [pytest.mark.root, pytest.mark.slow]

PLACES = [
    place
    for place in (
        "/opt",
        "/srv",
        "/var/lib",
        "/var/log",
        "/boot",
        "/root",
        "/home",
        "/mnt",
        "/etc",
        "/run",
        "/",
    )
    if os.access(place, os.W_OK)
]
"""Where something can be put that a worker must not see; some hosts mount some of it read-only."""

CONNECT = (
    "python3 -c 'import socket;"
    ' socket.socket(socket.AF_UNIX).connect("{address}"); print("connected")\''
)


@contextmanager
def directory_in(place: str) -> Iterator[Path]:
    """A directory of the host, open to everybody, with the file `secret` in it."""
    made = Path(tempfile.mkdtemp(prefix="dcd-test-", dir=place))
    try:
        made.chmod(0o755)
        (made / "secret").write_text("of the host")
        yield made
    finally:
        shutil.rmtree(made)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rights", ["of a script", "to mount, with the host's devices"])
def test_a_file_of_the_host_is_not_there(bench: Bench, place: str, rights: str) -> None:
    granted = Grants() if rights == "of a script" else MOUNTING
    with directory_in(place) as made:
        output = said(bench, f"cat {made}/secret; ls {place}", grants=granted)
    assert "of the host" not in output
    assert made.name not in output.replace(f"cat: {made}/secret", "")


def test_the_root_holds_the_systems_directories_and_no_others(bench: Bench) -> None:
    top = bench.directory.parts[1]
    code = {Path(entry).parts[1] for entry in bench_code()}
    assert set(said(bench, "ls -A /").split()) == {
        *("bin", "sbin", "usr", "etc", "dev", "proc", "sys", "tmp", "run", "root", "home"),
        *("mnt", "media", "boot", "opt", "srv", "var"),
        *(name for name in ("lib", "lib32", "lib64", "libx32") if Path("/", name).exists()),
        *(top, *code),
    }
    for empty in ("/boot", "/srv", "/var/lib", "/var/log", "/var/cache"):
        if not any(place.startswith(empty) for place in (*bench_code(), str(bench.directory))):
            assert said(bench, f"ls -A {empty}") == "", empty


def bench_code() -> list[str]:
    """Where the interpreter that runs this is."""
    return [str(Path(entry).absolute()) for entry in (sys.prefix, sys.base_prefix)]


def test_the_hosts_root_is_not_kept_anywhere(bench: Bench) -> None:
    mounts = said(bench, "cat /proc/self/mountinfo", grants=MOUNTING).splitlines()
    roots = [line for line in mounts if line.split()[4] == "/"]
    assert len(roots) == 1
    assert " tmpfs " in roots[0]


def order(wanted: Wanted) -> AttemptOrder:
    """An order for an attempt that needs this of the host."""
    return AttemptOrder(
        "b", "one", 1, "dcd/checkpoints/custom_script", "CustomScript", "", "w", wanted
    )


def test_a_directory_that_the_manifest_names_is_there_and_read_only(bench: Bench) -> None:
    with directory_in("/srv") as made, directory_in("/srv") as other:
        made.chmod(0o755)
        grants = granted(order(Wanted(reads=(made,))), Bounds())
        output = said(bench, f"cat {made}/secret; echo; touch {made}/new; ls /srv", grants=grants)
    assert output.startswith("of the host\n")
    assert "Read-only" in output
    assert other.name not in output


def test_what_the_configuration_adds_is_there_and_read_only(bench: Bench) -> None:
    with directory_in("/srv") as made:
        grants = granted(order(Wanted()), Bounds(paths=(made,)))
        output = said(bench, f"cat {made}/secret; touch {made}/new", grants=grants)
    assert output.startswith("of the host")
    assert "Read-only" in output


def test_the_state_directory_is_hidden_also_within_what_is_shown(bench: Bench) -> None:
    with directory_in("/srv") as made:
        (made / "state").mkdir()
        (made / "state/events.db").write_text("all events")
        grants = granted(order(Wanted()), Bounds(paths=(made,), hidden=(made / "state",)))
        output = said(bench, f"cat {made}/secret {made}/state/events.db", grants=grants)
    assert "of the host" in output
    assert "all events" not in output


def test_links_on_the_way_are_as_on_the_host(bench: Bench) -> None:
    with directory_in("/srv") as made:
        (made / "real").mkdir()
        (made / "real/file").write_text("at the end")
        (made / "link").symlink_to("real")
        (made / "absolute").symlink_to(made / "link")
        granted = Grants(reads=(made / "absolute/file",))
        output = said(bench, f"cat {made}/absolute/file; readlink {made}/link", grants=granted)
        assert [link.target for link in links(made / "absolute/file")] == [
            made / "absolute",
            made / "link",
        ]
    assert output == "at the endreal\n"


def test_no_socket_of_the_host_can_be_reached(bench: Bench) -> None:
    with directory_in("/srv") as made, socket.socket(socket.AF_UNIX) as listening:
        address = str(made / "socket")
        listening.bind(address)
        listening.listen()
        connect = CONNECT.format(address=address)
        assert said(bench, connect, grants=Grants(reads=(made,))) == "connected\n"
        for granted in (Grants(), MOUNTING):
            for network in (False, True):
                output = said(bench, connect, grants=granted, network=network)
                assert "FileNotFoundError" in output


def test_the_logins_of_apt_are_for_checkpoints_with_the_network(bench: Bench) -> None:
    logins = Path("/etc/apt/auth.conf.d")
    there = logins.is_dir()
    logins.mkdir(exist_ok=True)
    login = logins / f"dcd-test-{os.getpid()}.conf"
    try:
        login.write_text("machine mirror.invalid login me password told")
        assert "told" not in said(bench, f"cat {login}; ls /etc/apt")
        assert "told" in said(bench, f"cat {login}", network=True)
    finally:
        login.unlink()
        if not there:
            logins.rmdir()


@pytest.mark.parametrize("name", ["kcore", "keys", "key-users", "timer_list", "kpagecount"])
def test_what_proc_tells_of_the_machine_is_not_in_sight(bench: Bench, name: str) -> None:
    if not Path("/proc", name).exists():
        pytest.skip(f"this host's kernel has no /proc/{name}")
    assert "Permission denied" in said(bench, f"head -c1 /proc/{name}")


def test_of_sys_there_are_devices_and_none_of_the_other_file_systems(bench: Bench) -> None:
    mounts = said(bench, "cat /proc/self/mountinfo; ls /sys/block").splitlines()
    below = [line for line in mounts if line.split()[4:5] == ["/sys"] or " /sys/" in line]
    kinds = {line.split(" - ")[1].split()[0] for line in below}
    assert kinds <= {"sysfs", "tmpfs"}
    assert "loop0" in mounts or not Path("/sys/block/loop0").exists()


@pytest.mark.parametrize(
    "command", ["id", "getent hosts localhost", "locale", "date", "apt-get -v"]
)
def test_tools_find_what_they_need(bench: Bench, command: str) -> None:
    request = bench.request("Runs", command)
    assert isinstance(bench.run(request), Completed), bench.log(request).read_text()


def test_a_path_that_is_not_in_sight_is_named_with_the_remedy(bench: Bench) -> None:
    with directory_in("/srv") as made:
        (made / "tool").write_text("#!/bin/sh\n")
        (made / "tool").chmod(0o755)
        outcome = bench.run(bench.request("Runs", f"{made}/tool"))
    assert isinstance(outcome, Failed)
    assert "worker_paths" in outcome.error.resolution


def test_nobody_makes_a_device_where_devices_are(bench: Bench) -> None:
    null = Path("/dev/null").stat().st_rdev
    output = said(bench, f"mknod /dev/mine c {os.major(null)} {os.minor(null)} && echo made")
    assert "made" not in output


def test_what_cannot_be_shown_is_named(bench: Bench, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    request = replace(bench.request("Runs", "true"), evidence=gone)
    outcome = bench.run(request)
    assert isinstance(outcome, Failed)
    assert str(gone) in outcome.error.details
