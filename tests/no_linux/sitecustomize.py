"""Put on the import path, this takes from Python what it lacks on illumos, in each process."""

import os
import select
import signal
import time

ABSENT = {
    os: (
        *("listxattr", "getxattr", "setxattr", "removexattr", "copy_file_range", "splice"),
        *("pidfd_open", "memfd_create", "unshare", "setns", "O_PATH", "O_TMPFILE"),
        *("sched_getaffinity", "sched_setaffinity"),
        *("setresuid", "setresgid", "getresuid", "getresgid"),
    ),
    select: ("epoll",),
    signal: ("pidfd_send_signal",),
    time: ("CLOCK_BOOTTIME",),
}

for module, names in ABSENT.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
