"""The package store in a worker: it is read, added to by copies, and left before anything else runs."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from dcd.worker.messages import Completed
from store.packages import Packages
from tests.dcd.worker.conftest import MOUNTING, Bench

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_a_worker_reads_the_store_adds_copies_and_leaves_it(bench: Bench, tmp_path: Path) -> None:
    packages = Packages(bench.directory / "packages")
    packages.prepare()
    old = tmp_path / "old.deb"
    old.write_bytes(b"old")
    lent = packages.lend("before")
    lent.keep(old)
    packages.take_in(lent)

    lent = packages.lend("attempt")
    grants = replace(MOUNTING, hidden=(bench.directory / "packages",))
    request = bench.request("Stores", packages=lent, grants=grants)
    assert isinstance(bench.run(request), Completed), bench.log(request).read_text()
    assert bench.output(request).splitlines() == [
        "written: Read-only file system",
        "copied: True",
        "left: []",
        "left: []",
    ]
    assert packages.take_in(lent) == 1
    found = {package.sha256 for package in packages.stored()}
    assert found == {hashlib.sha256(content).hexdigest() for content in (b"old", b"new")}


def test_a_worker_that_does_not_need_the_store_does_not_see_it(bench: Bench) -> None:
    packages = Packages(bench.directory / "packages")
    packages.prepare()
    grants = replace(MOUNTING, hidden=(packages.directory,))
    request = bench.request("Runs", f"ls -A {packages.directory}; echo listed", grants=grants)
    assert isinstance(bench.run(request), Completed)
    assert bench.output(request) == "listed\n"
