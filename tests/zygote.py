"""A process that has loaded dcd and dcctl and forks one of them for each line on its standard input.

Loading the code is most of a start, and the tests start hundreds of daemons. A line is a JSON object:
`program` (`dcd` or `dcctl`) and its `arguments`, `output` and `errors` (files that take what it prints),
`environment`, `directory` (to work in), `fault` (arguments of inject_arm, or null) and `defect` (a name in
`faults/defects.py`, or null). Answers are JSON lines: {"forked": PID}, and {"ended": PID, "status"}. When its
standard input ends, so do its daemons. It has one thread, since only that one would be in a fork.

The daemon's launcher is forked too, so it suffers the same faults and defects. Without these, so are the
processes that fork planners and workers, and those that try back ends for layers: they load the same code.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from functools import partial
from pathlib import Path

from dcd.worker.request import MARKER
from store.host.kernel_scopes import end_with_parent

_traces = set()
"""The descriptor of the fault's trace, if there is a fault."""


def main() -> None:
    """Serve until the end of the input."""
    faults = os.environ.pop("LD_PRELOAD", None)  # what the daemon starts is not to suffer
    import alembic.command  # noqa: F401 - a new event log needs it

    import cli.main
    import dcd.launcher.__main__
    import dcd.launcher.client
    import dcd.main
    import dcd.serve

    dcd.launcher.client._started = _fork_launcher
    if not faults:
        _fork_all()

    cli.main.build_parser()
    programs = {"dcd": dcd.main.main, "dcctl": cli.main.main}

    running: dict[int, int] = {}
    """What was forked, by pidfds."""
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
                    _become(programs, tuple(running), **json.loads(line))
                descriptor = os.pidfd_open(pid)
                running[descriptor] = pid
                poll.register(descriptor, select.POLLIN)
                _say({"forked": pid})


def _become(
    programs, others, program, arguments, output, errors, environment, directory, fault, defect
):
    for descriptor in others:
        os.close(descriptor)
    for standard, (path, flags) in enumerate(
        (
            (os.devnull, os.O_RDONLY),
            (output, os.O_WRONLY | os.O_APPEND | os.O_CREAT),
            (errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT),
        )
    ):
        opened = os.open(path, flags)
        os.dup2(opened, standard)
        os.close(opened)
    _set_environment(environment)
    places = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [place for place in places if place and place not in sys.path]
    os.chdir(directory)
    if defect:
        _defects()[defect]()
    if fault:
        arm = ctypes.CDLL(None).inject_arm
        texts = (fault[name].encode() for name in ("below", "part", "calls"))
        trace = os.open(fault["trace"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        _traces.add(trace)
        arm(*texts, ctypes.c_long(fault["at"]), fault["error"], trace)
    sys.argv = [program, *arguments]
    status = 1
    try:
        status = programs[program]()
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
        _close_all_but(_kept(control.fileno()))
        sys.modules["dcd.launcher.__main__"].main(control.fileno())
    except BaseException:  # noqa: BLE001 - nobody else would print it
        traceback.print_exc()
    finally:
        os._exit(1)


def _set_environment(environment):
    """Change all variables but the placeholder of a mark, which is written where the kernel shows it."""
    for name in set(os.environ) - {MARKER}:
        del os.environ[name]
    os.environ.update({name: value for name, value in environment.items() if name != MARKER})


def _close_all_but(kept):
    for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if descriptor > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _fork_all():
    """Load what the processes of planners and workers load, and have launchers fork them."""
    import dcd.launcher.planners
    import dcd.launcher.zygote
    import dcd.planner.__main__
    import dcd.planner.forker
    import dcd.worker.zygote
    from dcd.construction.preload import preload
    from store.layers import choose

    preload()

    def fork_workers(zygote, control):
        def work():
            dcd.worker.zygote.main(socket.socket(fileno=control))

        return _forked(work, control, zygote._environment)

    def fork_planners(command, *, env, pass_fds, **_options):
        def plan():
            sys.argv = ["dcd.planner", *command[command.index("dcd.planner") + 1 :]]
            if "unshare" in command:
                _enter_namespaces()
            dcd.planner.__main__.main()

        return _Chain(_forked(plan, *pass_fds, env).pid)

    class _Chain(_Forked):
        kill = dcd.launcher.planners.Chain.kill

    dcd.launcher.zygote.Zygote._started = fork_workers
    dcd.launcher.planners.Chain = fork_planners
    choose._try = partial(_try_in_fork, choose._try)


def _try_in_fork(as_program, name, directory):
    """A trial of a back end for layers; where it fails, again, as a program that says why."""
    from store.layers.choose import _BACK_ENDS, _store, _trial

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if _BACK_ENDS[name]().mounts:
                _leave_mounts()
            _trial(_store(name, directory))
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        as_program(name, directory)


def _leave_mounts(more=0):
    """Enter a new mount namespace, as unshare(1) with --propagation=slave; and others."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, recursive_slave = 0x00020000, 0x4000 | 0x80000
    assert libc.unshare(new_mounts | more) == 0, os.strerror(ctypes.get_errno())
    assert libc.mount(b"none", b"/", None, recursive_slave, None) == 0


def _forked(work, control, environment):
    """A child that does as a program that is started with these: a descriptor, and variables."""
    pid = os.fork()
    if pid:
        return _Forked(pid)
    try:
        end_with_parent(signal.SIGKILL)
        os.setsid()
        os.chdir("/")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        _close_all_but({control})
        _set_environment(environment)
        work()
    except BaseException:  # noqa: BLE001 - nobody else would print it
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _enter_namespaces():
    """As unshare(1) with --fork and --kill-child, by whose name tests find it. Returns in the child."""
    new_uts, new_ipc, new_pids, set_name = 0x04000000, 0x08000000, 0x20000000, 15
    _leave_mounts(new_uts | new_ipc | new_pids)
    pid = os.fork()
    if pid:
        ctypes.CDLL(None).prctl(set_name, b"unshare")
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    end_with_parent(signal.SIGKILL)


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

    def wait(self, timeout=None):
        if timeout is None:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        end = time.monotonic() + (timeout or 0.0)
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("dcd.launcher", timeout)
            time.sleep(0.01)
        return status

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
