"""A shell in a build: what it shows, that nothing of it gets into the build, and that it vanishes."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.root


def eventually(condition, seconds=30.0):
    """Wait until it holds; fails when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.05)


def spaces(daemon):
    return {path.name for path in daemon.state_dir.glob("layers/*/.work/*")}


def shells(daemon):
    return {name for name in spaces(daemon) if name.startswith("shell-")}


def open_shell(daemon, build, *command):
    """dcctl shell as a process of its own, once its command has begun."""
    environment = {**os.environ, "DCD_SOCKET": str(daemon.socket)}
    line = [sys.executable, "-m", "cli.main", "shell", build, "--", *command]
    process = subprocess.Popen(
        line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.fixture
def failed(daemon, write_manifest):
    """A build whose second checkpoint fails after it has written something."""
    build = daemon.submit(
        write_manifest(
            ("one", "echo whole > {PKG_IMAGE_PATH}/file"),
            ("two", "echo half > {PKG_IMAGE_PATH}/file; echo extra > {TMP_DIR}/left; false"),
        )
    )
    daemon.wait(build, "failed")
    return build


def test_a_failed_build_is_shown_as_the_attempt_left_it(daemon, failed):
    look = 'cat "$PKG_IMAGE_PATH/file" "$TMP_DIR/left"; id -u; ls; test -d "$BOOT_ARCHIVE/"'
    assert daemon.ctl("shell", failed, "--", "sh", "-c", look).split() == [
        *("half", "extra", "0", "boot_archive", "media", "pkg_image", "tmp")
    ]
    assert daemon.ctl("shell", failed, "--at", "two", "--", "cat", "pkg_image/file") == "half\n"


def test_a_completed_checkpoint_is_shown_as_it_left_it(daemon, failed):
    assert daemon.ctl("shell", failed, "--at", "one", "--", "cat", "pkg_image/file") == "whole\n"


def test_nothing_that_is_done_in_a_shell_stays(daemon, failed):
    change = "echo changed > pkg_image/file; cat pkg_image/file"
    assert daemon.ctl("shell", failed, "--", "sh", "-c", change) == "changed\n"
    assert daemon.ctl("shell", failed, "--", "cat", "pkg_image/file") == "half\n"
    eventually(lambda: not shells(daemon))


def test_a_workspace_whose_areas_lead_to_the_host_is_not_entered(daemon, write_manifest):
    line = "rmdir {PKG_IMAGE_PATH}; ln -s / {PKG_IMAGE_PATH}; false"
    build = daemon.submit(write_manifest(("one", line)))
    daemon.wait(build, "failed")
    answer = daemon.run("shell", build, "--", "echo", "entered")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "the area pkg_image of the workspace is not a directory any more" in answer.stderr


def test_the_exit_code_is_the_commands(daemon, failed):
    daemon.ctl("shell", failed, "--", "sh", "-c", "exit 42", status=42)
    daemon.ctl("shell", failed, "--", "sh", "-c", "kill -TERM $$", status=143)
    daemon.ctl("shell", failed, "--", "/no/such/program", status=126)


def test_a_checkpoint_that_has_not_completed_cannot_be_shown(daemon, failed, write_manifest):
    daemon.ctl("shell", failed, "--at", "three", "--", "true", status=7)
    waiting = daemon.submit(write_manifest(("one", "true")), "--pause-before", "one")
    daemon.wait(waiting, "paused")
    refused = daemon.run("shell", waiting, "--", "true")
    assert refused.returncode == 6
    assert "no checkpoint has completed" in refused.stderr
    daemon.ctl("shell", waiting, "--at", "one", "--", "true", status=6)
    assert shells(daemon) == set()


def test_an_ended_build_is_shown_as_long_as_its_layers_are_there(daemon, write_manifest):
    build = daemon.submit(write_manifest(("one", "echo done > {PKG_IMAGE_PATH}/file")))
    daemon.wait(build, "completed")
    assert daemon.ctl("shell", build, "--", "cat", "pkg_image/file") == "done\n"
    daemon.ctl("gc", "--max-bytes", "0")
    gone = daemon.run("shell", build, "--", "true")
    assert gone.returncode == 7
    assert "the layer of one was removed" in gone.stderr


def test_the_failed_state_is_kept_until_the_build_goes_on_and_no_longer(daemon, failed):
    (kept,) = spaces(daemon)
    daemon.stop()
    daemon.start()
    assert spaces(daemon) == {kept}, "a restart keeps it"
    assert daemon.ctl("shell", failed, "--", "cat", "pkg_image/file") == "half\n"

    daemon.ctl("retry", failed)
    daemon.wait(failed, "failed")
    eventually(lambda: kept not in spaces(daemon))
    (again,) = spaces(daemon)
    assert again != kept

    daemon.ctl("cancel", failed)
    assert spaces(daemon) == set()


def test_an_open_shell_keeps_what_it_stands_on_when_the_build_goes_on(daemon, failed):
    (kept,) = spaces(daemon)
    shell = open_shell(daemon, failed, "sh", "-c", "echo begun; read line; cat pkg_image/file")
    try:
        daemon.ctl("cancel", failed)
        assert kept in spaces(daemon)
        out, _ = shell.communicate("go on\n", timeout=60)
        assert (out, shell.returncode) == ("half\n", 0)
    finally:
        shell.kill()
        shell.wait()
    eventually(lambda: spaces(daemon) == set())


def test_a_killed_dcctl_takes_its_shell_and_the_workspace_with_it(daemon, failed):
    """It is the end of the connection that ends the shell, so the daemon needs no collection for it."""
    shell = open_shell(daemon, failed, "sh", "-c", "sleep 1000 & echo begun; sleep 1000")
    assert len(shells(daemon)) == 1

    shell.send_signal(signal.SIGKILL)
    shell.wait()

    eventually(lambda: not shells(daemon))
    eventually(lambda: not [leak for leak in daemon.leaks() if "shell" in leak])


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_shell_does_not_outlive_its_daemon_for_long(daemon, failed, how):
    shell = open_shell(daemon, failed, "sh", "-c", "echo begun; sleep 1000")
    try:
        getattr(daemon, how)()
        daemon.start()
        assert shells(daemon) == set()
        assert shell.wait(30) != 0
    finally:
        shell.kill()
        shell.wait()


def test_on_a_terminal_it_says_how_to_enter_the_image(daemon, failed):
    environment = {"DCD_SOCKET": str(daemon.socket), "TERM": "xterm", "SHELL": "/bin/sh"}
    child, terminal = pty.fork()
    if child == 0:
        line = [sys.executable, "-m", "cli.main", "shell", failed]
        os.execvpe(line[0], line, {**os.environ, **environment})
    seen = b""
    try:
        os.write(terminal, b"cat pkg_image/file; exit 3\n")
        while piece := os.read(terminal, 4096):
            seen += piece
    except OSError:  # how a pseudo-terminal ends, pty(7)
        pass
    finally:
        os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert b"dcctl shell --chroot" in seen
    assert b"as attempt 1 at two left it" in seen
    assert b"half" in seen.split(b"do not affect the build.")[1]
    assert os.waitstatus_to_exitcode(status) == 3


def test_the_image_can_be_entered_with_chroot(daemon, write_manifest):
    programs = "$(ldd /bin/sh /bin/ls | grep -o '/[^ :]*')"
    copy = 'mkdir -p "{PKG_IMAGE_PATH}$(dirname $f)"; cp -L "$f" "{PKG_IMAGE_PATH}$f"'
    build = daemon.submit(write_manifest(("one", f"for f in {programs}; do {copy}; done; false")))
    daemon.wait(build, "failed")
    inside = 'chroot "$PKG_IMAGE_PATH" /bin/ls /proc/self/status /dev/null'
    out = daemon.ctl("shell", build, "--", "sh", "-c", inside)
    assert out.split() == ["/dev/null", "/proc/self/status"]
    assert daemon.ctl("shell", "--chroot", build, "--", "/bin/ls", "/dev/null") == "/dev/null\n"
    line = [sys.executable, "-m", "cli.main", "--socket", daemon.socket, "shell", build, "--chroot"]
    typed = 'echo "$PS1$PKG_IMAGE_PATH$SECRET"; exit 5'
    environment = {**os.environ, "SECRET": "x"}
    shell = subprocess.run(line, input=typed, capture_output=True, text=True, env=environment)
    assert shell.stdout == f"(image of {build}) # \n", shell.stderr
    assert shell.returncode == 5


def test_an_image_without_a_shell_is_not_entered_without_a_command(daemon, failed):
    assert "no shell that runs" in daemon.run("shell", "--chroot", failed).stderr


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_the_prompt_says_that_it_is_a_copy_and_the_banner_how_to_enter_the_image(
    daemon, failed, shell
):
    environment = {"DCD_SOCKET": str(daemon.socket), "TERM": "xterm", "SHELL": shell}
    child, terminal = pty.fork()
    if child == 0:
        line = [sys.executable, "-m", "cli.main", "shell", failed]
        os.execvpe(line[0], line, {**os.environ, **environment})
    seen = b""
    try:
        while b"(copy of %s)" % failed.encode() not in seen:
            seen += os.read(terminal, 4096)
        os.write(terminal, b"exit\n")
        while os.read(terminal, 4096):
            pass
    except OSError:  # how a pseudo-terminal ends, pty(7)
        pass
    finally:
        os.close(terminal)
    os.waitpid(child, 0)
    assert b"(copy of %s)" % failed.encode() in seen
    assert b"all rights of root" in seen


ESCAPE = """
import ctypes, errno, os, socket
def refused(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
libc = ctypes.CDLL(None, use_errno=True)
def fails(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
os.makedirs("/esc", exist_ok=True)
print(refused(lambda: os.chroot("/esc")),
      refused(lambda: fails(libc.mount(b"proc", b"/esc", b"proc", 0, None))),
      refused(lambda: fails(libc.unshare(0x10000000))),
      refused(lambda: socket.socket(socket.AF_INET)),
      refused(lambda: socket.socket(socket.AF_UNIX)),
      refused(lambda: (os.mknod("/esc/disk", 0o60600, os.makedev(7, 0)), os.open("/esc/disk", 0))),
      refused(lambda: fails(libc.ioctl(0, 0x5412, b"x"))))
"""


def test_programs_of_an_image_cannot_leave_it_through_a_shell(daemon, write_manifest, tmp_path):
    """What a hostile image would do as its own /bin/sh, when root opens a shell there."""
    program = tmp_path / "escape.py"
    program.write_text(ESCAPE)
    copies = (
        'for d in usr lib lib64 bin; do [ -e /$d ] && mkdir -p "{PKG_IMAGE_PATH}/$d"; done; '
        f'cp -a /usr/bin/python3* "{{PKG_IMAGE_PATH}}/bin/"; cp {program} "{{PKG_IMAGE_PATH}}/escape.py"; '
        "for f in $(ldd /usr/bin/python3 | grep -o '/[^ :]*'); do "
        'mkdir -p "{PKG_IMAGE_PATH}$(dirname $f)"; cp -L "$f" "{PKG_IMAGE_PATH}$f"; done; '
        'mkdir -p "{PKG_IMAGE_PATH}/usr/lib"; cp -a /usr/lib/python3.* "{PKG_IMAGE_PATH}/usr/lib/"; '
        'for f in /usr/lib/*/libffi.so.*; do mkdir -p "{PKG_IMAGE_PATH}$(dirname $f)"; '
        'cp -L "$f" "{PKG_IMAGE_PATH}$f"; done; false'
    )
    build = daemon.submit(write_manifest(("one", copies)))
    daemon.wait(build, "failed")
    out = daemon.ctl("shell", "--chroot", build, "--", "/bin/python3", "/escape.py")
    assert out.split() == ["EPERM", "EPERM", "EPERM", *["EAFNOSUPPORT"] * 2, "EACCES", "EPERM"]
