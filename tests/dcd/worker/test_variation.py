"""Surroundings are varied in the worker's own namespaces; the host keeps its own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dcd.worker import variation
from statemachine.variation import REPEATED, Variation

SHOWN = """
import os, socket, subprocess, sys, time
from dcd.worker.variation import vary
from statemachine.variation import REPEATED
vary(REPEATED)
print(time.strftime("%H", time.localtime(0)), socket.gethostname(), os.environ["LANG"], os.environ["HOME"])
print(len(os.sched_getaffinity(0)))
print(subprocess.run(["cat", "/proc/uptime"], capture_output=True, text=True).stdout.split()[0])
"""


@pytest.mark.root
def test_a_worker_has_other_surroundings_than_its_host() -> None:
    before = socket.gethostname()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    done = subprocess.run(
        [
            "unshare",
            "--uts",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            sys.executable,
            "-c",
            SHOWN,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    varied, shown, processors, later = done.stdout.splitlines()
    assert varied.startswith("# varied for this repetition: TZ, LANG, HOME, host name, processors")
    assert shown == f"14 {REPEATED.host_name} {REPEATED.language} {REPEATED.home}"
    assert processors == "1"
    if "clocks since the start" in varied:  # Linux 5.6
        assert float(later) - uptime >= REPEATED.later_seconds
    assert socket.gethostname() == before


def test_what_the_host_does_not_permit_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    variation.vary(Variation(place="elsewhere"))
    assert capsys.readouterr().out == "# varied for this repetition: directory of the workspace\n"
    variation.vary(Variation())
    assert capsys.readouterr().out == "# varied for this repetition: nothing\n"


def test_only_the_tools_of_the_host_get_another_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert variation.for_image(REPEATED) == {"TZ": REPEATED.time_zone}
    assert variation.for_image(None) == variation.for_host_tools(None) == {}
    monkeypatch.setattr(variation, "_LIBRARIES", (tmp_path,))
    assert variation.for_host_tools(REPEATED) == {}
    library = tmp_path / "x86_64-linux-gnu/faketime/libfaketime.so.1"
    library.parent.mkdir(parents=True)
    library.touch()
    assert variation.for_host_tools(REPEATED)["LD_PRELOAD"] == str(library)
    assert variation.for_host_tools(REPEATED)["FAKETIME"] == "+108000s"
    assert variation.for_host_tools(Variation(processors=1)) == {}


@pytest.mark.skipif(variation._faketime() is None, reason="libfaketime is not installed")
def test_the_clock_of_tools_is_later_and_times_of_files_are_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.utime(file, (1_000_000_000, 1_000_000_000))
    environment = {**os.environ, **variation.for_host_tools(REPEATED)}
    shown = [
        int(subprocess.run(command, capture_output=True, env=environment, check=True).stdout)
        for command in (["date", "+%s"], ["date", "-r", str(file), "+%s"])
    ]
    here = int(subprocess.run(["date", "+%s"], capture_output=True, check=True).stdout)
    assert shown[0] - here >= REPEATED.later_seconds - 5
    assert shown[1] == 1_000_000_000
