"""Whose fault an error of the file system is: the disk's, or that of what a checkpoint left there."""

import errno
import os

import pytest

from dcd.engine.failures import command_for_disk_error, disk_error
from statemachine.commands import FailCheckpoint, InterruptCheckpoint

MACHINE = (errno.EIO, errno.EROFS, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.EUCLEAN)
SPACE = (errno.ENOSPC, errno.EDQUOT)
OF_A_TREE = (
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
    *(
        errno.EINVAL,
        errno.EMLINK,
        errno.EFBIG,
        errno.ENOENT,
        errno.EPERM,
        errno.EACCES,
        errno.EXDEV,
    ),
    *(errno.EOPNOTSUPP, errno.EOVERFLOW, errno.ETXTBSY, errno.EBUSY, errno.ERANGE, errno.E2BIG),
)


def failed(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/state/layers/w/root/pkg_image/x")


@pytest.mark.parametrize("number", MACHINE, ids=errno.errorcode.get)
def test_a_failing_disk_is_said_to_fail(number: int) -> None:
    assert "disk of the state directory fails" in disk_error(failed(number)).brief


@pytest.mark.parametrize("number", OF_A_TREE, ids=errno.errorcode.get)
def test_what_a_tree_can_provoke_is_no_failure_of_the_disk(number: int) -> None:
    command = command_for_disk_error("copy", failed(number))
    assert isinstance(command, FailCheckpoint)
    assert "disk" not in command.error.brief
    assert "pkg_image/x" in command.error.details
    assert command.error.resolution


@pytest.mark.parametrize("number", SPACE, ids=errno.errorcode.get)
def test_want_of_space_interrupts(number: int) -> None:
    assert isinstance(command_for_disk_error("copy", failed(number)), InterruptCheckpoint)
