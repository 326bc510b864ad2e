"""`python -m dcd.worker.supervisor FD WORKSPACE`: the first process of a portable worker; FD is for its
messages, WORKSPACE the directory of its workspace.

A portable worker has no PID namespace: this process ends what the attempt has started. It leads a session of
its own, and the attempt another one. Its standard input is the attempt's request and its lifetime: when the
launcher closes it or dies, the whole attempt is killed at once. On Linux the attempt's process and this one
are the parents of all that the attempt leaves behind (PR_SET_CHILD_SUBREAPER), so nothing escapes by forking
twice, even when one of the two is killed; on illumos all of it is in one process contract, which ctrun(1)
holds. Nothing else of the host is ever signalled: there is no `kill(-1)` here.

Source: prctl(2); ctrun(1), contract(5) of illumos.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NoReturn

from dcd.worker.ending import end_all
from dcd.worker.recover import note_contract, own_contract
from dcd.worker.request import MARKER
from dcd.worker.stream import obey, read_request, take_stream
from store.host.forking import exit_with
from store.host.kernel_scopes import adopt_orphans


def main() -> NoReturn:
    """Run one attempt."""
    marker = os.environ[MARKER]
    adopt_orphans()
    if contract := own_contract():
        note_contract(contract, Path(sys.argv[2]))
    holder = os.getppid() if contract else 0
    messages = int(sys.argv[1])
    stream = take_stream()
    request = read_request(stream)
    reading, answers = os.pipe()
    child = os.fork()
    if child == 0:
        stream.close()
        os.close(answers)
        _carry_out(request, messages, reading)
    os.close(messages)
    os.close(reading)

    def follow(stream: BinaryIO) -> None:
        obey(stream, child, answers)
        end(marker, contract, holder)
        os._exit(1)

    threading.Thread(target=follow, args=(stream,), daemon=True).start()
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            end(marker, contract, holder)
            # Skips Python's shutdown, which would wait for the thread.
            os._exit(code if code >= 0 else 128 - code)


def end(marker: str, contract: int, holder: int) -> None:
    """End the other processes of the attempt. If one hangs in the kernel, end the holder of the contract too
    (0: there is none). It would wait for it, as a member of the service's contract, and SMF starts a dead
    daemon again only when that one is empty."""
    contracts = {contract} if contract else set()
    ended = end_all(marker, {os.getpid()}, contracts)
    if not ended and holder and os.getppid() == holder:
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder, signal.SIGKILL)


def _carry_out(request: bytes, messages: int, answers: int) -> NoReturn:
    """Run the attempt in the child."""
    os.set_inheritable(messages, False)

    def attempt() -> int:
        os.setsid()
        adopt_orphans()
        # Imported here, so that the supervisor stays small and starts fast.
        from dcd.worker.attempt import carry_out, work

        def start(root: Path, *, varied: bool) -> int:
            return _forwarding(lambda: work(request, root, messages, answers))

        return carry_out(request, messages, start)

    exit_with(attempt)


def _forwarding(work: Callable[[], NoReturn]) -> int:
    """Fork the process that works, which gets each SIGTERM. Before it exists, SIGTERM ends this one."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
        work()
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    return child


if __name__ == "__main__":
    main()
