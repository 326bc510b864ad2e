"""When the daemon dies while a file system of a disk is being filled, neither mount nor loop device stays."""

import os
import signal

import pytest

from dcd.worker.recover import leftover_workers
from store.host.tools import missing
from tests.dcd.worker.conftest import MOUNTING, Bench, loops_on, mounts_below
from tests.dcd.worker.test_daemon_death import daemon, eventually

LACKING = missing(("mkfs.xfs", "mkfs.btrfs", "cp", "mount"))
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]

FILLS = '''

class Fills(Checkpoint):
    """Fills a partition of a disk with more than is done in a moment."""

    def __init__(self, name: str, kind: str, disk: str) -> None:
        super().__init__(name)
        self.kind, self.disk = kind, disk

    def execute(self, context: Context) -> None:
        import uuid

        from dcd.checkpoints.vm.create_disk import begin_disk
        from dcd.checkpoints.vm.disk import DiskLayout, Volume, VolumePartition
        from dcd.checkpoints.vm.volumes import Place, make_volume

        ids = [str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.disk} {number}")) for number in range(3)]
        volume = Volume(self.kind, ids[0], "", "/")
        partition = VolumePartition(1, ids[1], ids[1], 1 << 20, 400 << 20, volume=volume)
        layout = DiskLayout(self.disk, 402 << 20, 512, ids[2], (partition,))
        for number in range(200):
            (context.pkg_image / str(number)).write_bytes(bytes([number]) * (1 << 20))
        path = context.media / self.disk
        begin_disk(path, layout, 0)
        context.report(Report(message="filling"))
        make_volume(context, Place(path, layout, partition, 0), context.pkg_image)
'''


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_nothing_of_a_file_system_being_filled_stays(bench: Bench, kind: str) -> None:
    probes = bench.directory / "dcd_test_probes.py"
    probes.write_text(probes.read_text() + FILLS)
    disk = f"disk-{os.getpid()}-{kind}.raw"
    request = bench.request("Fills", kwargs={"kind": kind, "disk": disk}, grants=MOUNTING)
    with daemon(bench, request) as process:
        assert eventually(lambda: loops_on(disk) != [])
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert eventually(lambda: not leftover_workers(f"{bench.state_id}:"))
        assert eventually(lambda: loops_on(disk) == [])
        assert mounts_below(bench.directory) == []
