"""Results of benchmarks: as JSON, as the table of the documentation, and within a given time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.again import last_changed
from benchmarks.examples import with_package, without_boots
from benchmarks.figure import Figure, Run, as_json, from_json, table
from benchmarks.memory import own_bytes
from benchmarks.page import PAGE, record, recorded, with_table, written
from benchmarks.rounds import Rounds, shares
from benchmarks.vm_image import slowest_alone
from dcd.checkpoints.vm.formats import images_of
from dcd.manifest.doc import checkpoints_of, distro, software_for
from dcd.planning.load import load

MACHINE = {
    "date": "2026-11-27 12:00 UTC",
    "cpu": "a CPU",
    "cpus": 2,
    "memory_gib": 24.0,
    "kernel": "6.1",
    "python": "3.11",
    "sqlite": "3.40",
    "dcd": "1",
    "load_before": [0.25, 0, 0],
}
RUN = Run(
    "example",
    MACHINE,
    (
        Figure("ratio", "", (0.5, 0.7, 0.6, 0.9), most=0.75),
        Figure("once", "s", (1234.5,), least=2000, note="a note"),
    ),
)


def test_the_table_of_the_page_is_what_the_recorded_runs_give() -> None:
    assert PAGE.read_text() == written(), "python -m benchmarks.page writes it"


def test_another_run_changes_the_table_and_nothing_else_of_the_page() -> None:
    page = PAGE.read_text()
    changed = with_table(page, [RUN])
    assert table([RUN]) in changed and changed != page
    assert with_table(changed, [RUN]) == changed
    before, after = page.partition("<!-- results")[0], page.partition("<!-- end of results")[2]
    assert changed.startswith(before) and changed.endswith(after)


def test_a_page_without_a_place_for_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="has no lines"):
        with_table("# Performance\n", [RUN])


def test_a_table_has_the_median_the_quartiles_and_the_limit() -> None:
    ratio, once = table([RUN]).splitlines()[-2:]
    assert ratio == (
        "| example, 2026-11-27 12:00 UTC, load 0.25 | ratio | 0.650  | 0.575 to 0.750 | 4 |"
        " at most 0.750: kept |"
    )
    assert once == "|  | once: a note | 1,234 s |  | 1 | at least 2,000: NOT KEPT |"


def test_a_run_is_the_same_after_json(tmp_path: Path) -> None:
    assert from_json(json.loads(json.dumps(as_json(RUN)))) == RUN
    record(RUN, tmp_path)
    again = Run("example", MACHINE, RUN.figures[:1])
    record(again, tmp_path)
    assert recorded(tmp_path.glob("*.json")) == [again]
    several = tmp_path / "several"
    several.write_text(json.dumps([as_json(RUN), as_json(again)]))
    assert recorded([several]) == [RUN, again]


def test_the_command_shows_the_table_of_earlier_runs(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps([as_json(RUN)]))
    shown = subprocess.run(
        [sys.executable, "-m", "benchmarks", "table", file],
        cwd=PAGE.parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == table([RUN])


def test_rounds_end_when_their_time_is_used_up_but_one_runs_always() -> None:
    assert list(Rounds(3)) == [0, 1, 2]
    assert list(Rounds(3, time.monotonic() - 1)) == [0]
    done = []
    for number in Rounds(100, time.monotonic() + 0.2):
        time.sleep(0.06)
        done.append(number)
    assert done in ([0, 1, 2], [0, 1], [0])


def test_what_one_benchmark_leaves_of_its_time_is_for_the_next() -> None:
    began = time.monotonic()
    first, second = shares(1.0, [3, 10], [1, 3])
    assert (first.most, second.most) == (3, 10)
    assert first.until - began == pytest.approx(15, abs=1)
    assert second.until - began == pytest.approx(60, abs=1)


def test_the_memory_of_a_daemon_is_that_of_its_own_processes_without_tools() -> None:
    allocate = "block = bytearray(64 << 20)\nfor i in range(0, len(block), 4096): block[i] = 1\n"
    child = f"import sys\n{allocate}print('ready', flush=True)\nsys.stdin.read()"
    before = own_bytes(os.getpid())
    for command, counts in (([sys.executable], True), (["/usr/bin/env", "-S", "python3"], False)):
        process = subprocess.Popen(
            [*command, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            assert (own_bytes(os.getpid()) - before > 50 << 20) is counts


def test_the_changed_manifests_are_valid_and_differ_in_what_their_names_say(tmp_path: Path) -> None:
    manifest, image = without_boots(tmp_path, "debian-live.xml")
    more = with_package(manifest, "htop", "live-htop")
    before, after = (load(file.read_text(), str(file)).doc for file in (manifest, more))
    software = software_for(after, "transfer-deb")
    assert software is not None
    assert tuple(software.names("install")) == (*image.packages, "htop")
    assert [distro(doc).name for doc in (before, after)] == ["debian-live", "live-htop"]
    last = load((changed := last_changed(manifest)).read_text(), str(changed)).doc
    assert [each.name for each in checkpoints_of(last)] == [
        each.name for each in checkpoints_of(before)
    ]
    machine, _ = without_boots(tmp_path / "vm", "debian-vm.xml")
    alone = load((one := slowest_alone(machine)).read_text(), str(one)).doc
    assert [image.kind for image in images_of(alone)] == ["vmdk"]
