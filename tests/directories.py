"""The directories of a run and of its tests, and their end."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

FAILED = pytest.StashKey[bool]()
"""What a test has in its stash once it has failed."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give each run a base directory of its own. In the one that all runs of a user share, a run that begins
    closes the way to the directories of the others, which the users of their daemons need. Heed Ctrl-C also
    where the run was started in the background, without it: so do the programs that tests interrupt. End like
    that at SIGTERM, with the daemons and directories of the run."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if config.option.basetemp is None and not hasattr(config, "workerinput"):
        base = tempfile.mkdtemp(prefix="dcd-tests-")
        config.option.basetemp = base
        config.add_cleanup(lambda: remove_base(base))


def remove_base(base: str) -> None:
    """Remove the directory of a run, with the processes and mounts that its tests have left, and those of
    pytest-xdist's processes that were killed."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{base}/".encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
    for place in reversed(mounts_beneath(Path(base))):
        subprocess.run(["umount", "--lazy", place], stderr=subprocess.DEVNULL, check=False)
    # What is mounted all the same is not emptied.
    remove = ["rm", "-rf", "--one-file-system", base]
    subprocess.run(remove, stderr=subprocess.DEVNULL, check=False)


def mounts_beneath(directory: Path) -> list[str]:
    """The places in a directory where something is mounted, each after those that it is in."""
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [place for place in places if place.startswith(f"{directory}/")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep in mind that a test has failed."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def tmp_path(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """pytest's, and removed as soon as the test has passed: together those of all tests hold many GiB. It
    stays where the test has failed, and with what is mounted in it, for no removal to go through a mount."""
    yield tmp_path
    if not request.node.stash.get(FAILED, False):
        remove_unmounted(tmp_path)


def remove_unmounted(directory: Path) -> None:
    """Remove a directory that is of no use any more, unless something is mounted in it."""
    if not mounts_beneath(directory):
        shutil.rmtree(directory, ignore_errors=True)
