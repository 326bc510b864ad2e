"""A process that has loaded the daemon's code and forks a daemon for each line on its standard input.

Loading the code is most of a start; a fault test starts hundreds of daemons. A line is a JSON object:
`arguments` of `dcd`, `log` (a file for its output), `fault` (arguments of inject_arm, or null) and
`defect` (a name in `defects`, or null). Answers are JSON lines: {"pid"} when it has been forked,
{"status"} when it has ended. When its standard input ends, so do this process and its daemon.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

_traces = set()
"""The descriptor of the fault's trace, if there is a fault."""


def main() -> None:
    """Serve until the end of the input."""
    os.environ.pop("LD_PRELOAD", None)  # what the daemon starts is not to suffer
    import dcd.launcher.__main__
    import dcd.launcher.client
    import dcd.main
    import dcd.serve

    dcd.launcher.client._started = _fork_launcher

    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become_daemon(dcd.main.main, **request)
        _say({"pid": pid})
        threading.Thread(target=_await, args=(pid,), daemon=True).start()


def _become_daemon(run, arguments, log, fault, defect):
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    if defect:
        _defects()[defect]()
    if fault:
        arm = ctypes.CDLL(None).inject_arm
        texts = (fault[name].encode() for name in ("below", "part", "calls"))
        trace = os.open(fault["trace"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        _traces.add(trace)
        arm(*texts, ctypes.c_long(fault["at"]), fault["error"], trace)
    sys.argv = ["dcd", *arguments]
    status = 1
    try:
        status = run()
    except SystemExit as ended:
        status = ended.code
    except BaseException:  # noqa: BLE001 - nobody else would print it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def _fork_launcher(control):
    """In the place of starting the launcher: forked, it suffers the same faults and defects."""
    pid = os.fork()
    if pid:
        return _Forked(pid)
    try:
        os.setsid()
        kept = _kept(control.fileno())
        for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
            if descriptor > 2 and descriptor not in kept:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        sys.modules["dcd.launcher.__main__"].main(control.fileno())
    except BaseException:  # noqa: BLE001 - nobody else would print it
        traceback.print_exc()
    finally:
        os._exit(1)


def _kept(control):
    """What the forked launcher keeps: its socket and the trace of the fault."""
    return {control, *_traces}


class _Forked:
    """Like subprocess.Popen as far as dcd.launcher.client needs it."""

    def __init__(self, pid):
        self.pid = pid

    def poll(self):
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait(self, timeout):
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("dcd.launcher", timeout)
            time.sleep(0.01)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)


def _die_with(parent):
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _defects():
    path = Path(__file__).with_name("defects.py")
    spec = importlib.util.spec_from_file_location("defects", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DEFECTS


def _await(pid):
    _, status = os.waitpid(pid, 0)
    _say({"status": os.waitstatus_to_exitcode(status)})


def _say(answer):
    # One write: two threads talk.
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
