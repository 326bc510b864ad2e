"""A process that has loaded the daemon's code and forks a daemon for each line on its standard input.

Loading the code is most of a start, and the tests start hundreds of daemons. A line is a JSON object:
`arguments` of `dcd`, `log` (a file for its output), `environment`, `directory` (to work in), `fault`
(arguments of inject_arm, or null) and `defect` (a name in `faults/defects.py`, or null). Answers are JSON
lines: {"forked": PID}, and {"ended": PID, "status"}. When its standard input ends, so do its daemons. It
has one thread, since only that one would be in a fork.

The daemon's launcher is forked too, so it suffers the same faults and defects.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

_traces = set()
"""The descriptor of the fault's trace, if there is a fault."""


def main() -> None:
    """Serve until the end of the input."""
    os.environ.pop("LD_PRELOAD", None)  # what the daemon starts is not to suffer
    import alembic.command  # noqa: F401 - a new event log needs it

    import dcd.launcher.__main__
    import dcd.launcher.client
    import dcd.main
    import dcd.serve

    dcd.launcher.client._started = _fork_launcher

    running: dict[int, int] = {}
    """The daemons, by their pidfds."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    asked = b""
    while True:
        for descriptor, _ in poll.poll():
            if descriptor:
                pid = running.pop(descriptor)
                poll.unregister(descriptor)
                os.close(descriptor)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                _say({"ended": pid, "status": status})
                continue
            came = os.read(0, 1 << 20)
            if not came:
                for pid in running.values():
                    os.kill(pid, signal.SIGKILL)
                return
            *lines, asked = (asked + came).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    _become_daemon(dcd.main.main, tuple(running), **json.loads(line))
                descriptor = os.pidfd_open(pid)
                running[descriptor] = pid
                poll.register(descriptor, select.POLLIN)
                _say({"forked": pid})


def _become_daemon(run, others, arguments, log, environment, directory, fault, defect):
    for descriptor in others:
        os.close(descriptor)
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
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
    """In the place of starting the launcher."""
    pid = os.fork()
    if pid:
        return _Forked(pid)
    try:
        os.setsid()
        os.chdir("/")
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


def _defects():
    path = Path(__file__).with_name("faults") / "defects.py"
    spec = importlib.util.spec_from_file_location("defects", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DEFECTS


def _say(answer):
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
