"""A program that is not trusted gets nothing of the host: no rights, no network, no processes, no space."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcd.platform.sandbox import OUTPUT_BYTES, Allowed, printed, run_confined
from store.host.process import ToolFailed

pytestmark = [pytest.mark.slow, pytest.mark.root]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def shell(
    command: str,
    place: Path,
    seconds: float = 20,
    allowed: Allowed = Allowed(),  # noqa: B008
) -> str:
    return run_confined(["/bin/sh", "-c", command], place, seconds, allowed)


def test_it_runs_as_nobody_with_no_privileges_and_none_to_get(place: Path) -> None:
    status = shell("cat /proc/self/status", place)
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) != {"0"}
    assert "0" not in fields["Uid"].split()
    assert fields["Groups"].split() == []
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"


def test_it_sees_no_other_process_and_no_network(place: Path) -> None:
    assert int(shell("ls -d /proc/[0-9]* | wc -l", place)) < 6
    assert shell("cat /proc/net/route /proc/net/dev", place).count("lo:") == 1
    assert "eth" not in shell("cat /proc/net/dev", place)


def test_it_gets_none_of_the_daemons_environment(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCD_SECRET_X", "hunter2")
    assert set(shell("env", place).split("\n")) == {
        "", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL=C.UTF-8", "HOME=/", f"PWD={place}",
    }  # fmt: skip


def test_it_cannot_read_what_only_root_may_nor_write_beside_its_file(place: Path) -> None:
    secret = place / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o600)
    with pytest.raises(ToolFailed):
        shell(f"cat {secret}", place)
    assert "hunter2" not in printed(place)
    with pytest.raises(ToolFailed):
        shell(f"echo x >{place}/new", place)
    assert not (place / "new").exists()


def test_what_it_prints_is_bounded(place: Path) -> None:
    with pytest.raises(ToolFailed):
        shell("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", place)
    assert len(printed(place)) == OUTPUT_BYTES


def test_what_takes_too_long_is_stopped_and_leaves_no_process(place: Path) -> None:
    with pytest.raises(ToolFailed) as caught:
        shell("(trap '' TERM; sleep 4242.1) & sleep 4242.2", place, 0.5)
    assert caught.value.timed_out
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            commands.append(path.read_bytes())
    assert not any(b"4242." in command for command in commands)


def test_in_a_root_of_its_own_it_sees_the_systems_software_and_what_it_is_shown(
    place: Path, tmp_path: Path
) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/file").write_text("content")
    (place / "given").write_text("input")
    seen = Allowed(seen=(f"{tmp_path}/shown",))
    assert shell(f"cat given {tmp_path}/shown/file", place, allowed=seen) == "inputcontent"
    assert shell(f"ls {tmp_path}", place, allowed=seen) == "shown\n"
    top = set(shell("ls /", place, allowed=seen).split())
    assert top <= {
        "bin",
        "dev",
        "etc",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "proc",
        "sbin",
        "tmp",
        "usr",
    }
    for hidden in ("/etc/shadow", "/root", "/home", "/srv", "/var", "/run", "/opt", "/etc/apt"):
        assert shell(f"ls -d {hidden} 2>/dev/null || echo none", place, allowed=seen) == "none\n"
    # What is mounted for it is gone with it.
    assert str(place) not in Path("/proc/self/mounts").read_text()


def test_what_it_is_shown_cannot_be_written_to(place: Path, tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir(mode=0o777)
    (tmp_path / "shown").chmod(0o777)
    with pytest.raises(ToolFailed):
        shell(f"echo x >{tmp_path}/shown/new", place, allowed=Allowed(seen=(f"{tmp_path}/shown",)))
    assert "Read-only" in printed(place)


def test_it_gets_the_network_only_where_it_is_allowed(place: Path) -> None:
    mine = Path("/proc/self/ns/net").readlink()
    assert shell("readlink /proc/self/ns/net", place).strip() != str(mine)
    allowed = Allowed(network=True)
    assert shell("readlink /proc/self/ns/net", place, allowed=allowed).strip() == str(mine)
