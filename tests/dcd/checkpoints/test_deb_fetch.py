"""The download of packages over several connections, against a real mirror; what fails is left to apt-get."""

import os
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.interface import Report
from dcd.checkpoints.transfer.deb_fetch import fetch_at_once
from dcd.checkpoints.transfer.deb_progress import Progress
from dcd.checkpoints.transfer.deb_store import wanted_by_name
from dcd.platform.apt import host_apt, host_sources
from dcd.platform.apt_root import ARCHIVES, apt_settings, reachable, transfers, update

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.usefixtures("own_mounts")]

NAMES = tuple(f"part-{number}" for number in range(11))


@pytest.fixture
def many(stocked: Any) -> Any:
    """A mirror with more packages than connections."""
    stocked.publish("test", *((name, "") for name in NAMES))
    return stocked


def files(*names: str) -> set[str]:
    return {f"{name}_1.0_amd64.deb" for name in names}


def fetched(bench: Any, names: set[str]) -> tuple[set[str], set[str], list[Report]]:
    """What is said to be in the package cache, what is there, and the reports."""
    reports: list[Report] = []
    sources = host_sources()
    with reachable(bench.image) as place:
        apt = apt_settings(place, sources=sources, architecture="amd64")
        with transfers(place, host_apt(), sources) as online:
            update(online, sources)
            wanted = wanted_by_name(apt, NAMES)
            chosen = [wanted[name] for name in names]
            said = fetch_at_once(place, online, chosen, Progress(reports.append))
    archives: Path = bench.image / ARCHIVES
    owners = {file.stat().st_uid for file in archives.glob("*.deb")}
    assert owners <= {os.geteuid()}, "nothing of apt's user stays in reach"
    return said, {file.name for file in archives.glob("*.deb")}, reports


def test_all_packages_are_fetched_and_counted(bench: Any, many: Any) -> None:
    said, there, reports = fetched(bench, files(*NAMES))
    assert said == there == files(*NAMES)
    assert {many.requests[f"/pool/{name}"] for name in files(*NAMES)} == {1}
    downloading = [each.fraction for each in reports if each.message == "downloading packages"]
    assert len(downloading) == len(NAMES) + 1
    assert downloading == sorted(downloading)


def test_only_the_named_packages_are_fetched(bench: Any, many: Any) -> None:
    said, there, _ = fetched(bench, files("part-3"))
    assert said == there == files("part-3")
    assert not many.requests["/pool/part-2_1.0_amd64.deb"]


def test_what_the_mirror_does_not_serve_whole_is_left_out(bench: Any, many: Any) -> None:
    many.refusals["/pool/part-2_1.0_amd64.deb"] = [503]
    damaged = many.directory / "pool/part-4_1.0_amd64.deb"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    short = many.directory / "pool/part-7_1.0_amd64.deb"
    short.write_bytes(short.read_bytes()[:-1])
    said, there, _ = fetched(bench, files(*NAMES))
    assert said == there == files(*NAMES) - files("part-2", "part-4", "part-7")
