"""Reach of code that has taken over a planner: attempts from inside a real one, and each as root for
comparison."""

import asyncio
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dcd.planner.command import Sight, command, environment
from dcd.planner.rules import Rules
from dcd.planner.tasks import CHECK, PLAN, Manifest
from statemachine.errors import DcdError, Unprepared
from store.host.identity import Identity, service_identity
from store.host.kernel_scopes import can_restrict_files, can_scope_sockets
from tests.dcd.planner.conftest import ADA, SHOW, TRYING, Bench
from tests.user_namespaces import need_user_namespaces

pytestmark = [pytest.mark.root, pytest.mark.slow]


def outside(code: str, temporary: Path) -> str:
    """The same as root, in a mount namespace of its own."""
    command = ["unshare", "--mount", sys.executable, "-c", code + "\nprint(said)"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


ATTEMPTS = {
    "passwords": ("Path('/etc/shadow').read_text()", "ENOENT"),
    "events": ("Path('{state}/events.db').read_text()", "ENOENT"),
    "builds": ("os.listdir('{state}/builds')", "ENOENT"),
    "files": ("Path('{outsider}').read_text()", "ENOENT"),
    "socket": ("socket.socket(socket.AF_UNIX).connect('{socket}')", "ENOENT"),
    "signal": ("os.kill({pid}, 0)", "ESRCH"),
    "trace": ("call(libc.ptrace(16, {child}, 0, 0))", "EPERM"),
    "mount": ("call(libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None))", "EPERM"),
    "namespace": ("call(libc.unshare(0x10000000))", "EPERM"),
    "root": ("os.setresuid(0, 0, 0)", "EPERM"),
    "group": ("os.setgroups([0])", "EPERM"),
    "chroot": ("os.chroot('/tmp')", "EPERM"),
    "device": ("os.mknod(tempfile.mkdtemp() + '/disk', 0o60600, os.makedev(7, 0))", "EPERM"),
    "keyring": ("call(libc.syscall({keyctl}, 0, -3, 0, 0, 0))", "ENOSYS"),
    "packets": ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "EAFNOSUPPORT"),
}  # fmt: skip


@pytest.mark.parametrize("what", ATTEMPTS)
def test_a_planner_reaches_nothing_of_the_host(bench: Bench, tmp_path: Path, what: str) -> None:
    if what == "namespace":
        need_user_namespaces()
    code, refusal = ATTEMPTS[what]
    outsider = tmp_path / "outsider"
    outsider.write_text("x")
    with (
        socket.socket(socket.AF_UNIX) as listening,
        tempfile.TemporaryDirectory() as short,
        subprocess.Popen(["sleep", "60"]) as child,
    ):
        listening.bind(f"{short}/s")
        Path(short).chmod(0o755)
        Path(f"{short}/s").chmod(0o777)
        listening.listen()
        tried = TRYING.format(
            code=code.format(
                state=bench.state,
                outsider=outsider,
                socket=f"{short}/s",
                pid=os.getpid(),
                child=child.pid,
                keyctl=250 if os.uname().machine == "x86_64" else 219,
            )
        )
        try:
            assert outside(tried, tmp_path) == "done"
            assert bench.ask(tried) == refusal
        finally:
            child.kill()


def test_a_planner_has_no_root_no_capability_and_no_secret_of_the_daemon(bench: Bench) -> None:
    status = bench.ask("said = open('/proc/self/status').read()")
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert "0" not in {*fields["Uid"].split(), *fields["Gid"].split()}
    assert fields["Groups"].split() == []
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {int(fields[name], 16) for name in sets} == {0}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert "sesame" not in bench.ask("import os; said = dict(os.environ)")


def test_nothing_but_its_own_directory_can_be_written(bench: Bench) -> None:
    tried = f"""
import os, tempfile
said = []
for place in [*sorted({{top for top, _, _ in os.walk("/") if not top.startswith(("/proc", "/usr/"))}}),
              "/usr", "/usr/lib", "{bench.blobs}", {str(Path(__file__).parents[3])!r}]:
    try:
        open(os.path.join(place, "dcd-was-here"), "w").close()
        said.append(place)
    except OSError:
        pass
said = [place for place in said if not place.startswith(tempfile.gettempdir())] or [
    open(os.path.join(tempfile.gettempdir(), "new"), "w").write("x")]
"""
    assert bench.ask(tried) == "[1]"


@pytest.mark.skipif(not can_restrict_files(), reason="this host's kernel has no Landlock")
def test_a_planner_reads_the_captured_files_of_its_question_only(bench: Bench) -> None:
    own, other = bench.captured("own"), bench.captured("somebody else's")
    tried = TRYING.format(code="Path('{}').read_text()")
    files = {"/home/a": own}
    assert bench.ask(tried.format(own.path), files=files) == "done"
    assert bench.ask(tried.format(other.path), files=files) == "EACCES"
    listing = TRYING.format(code=f"os.listdir('{bench.blobs}')")
    assert bench.ask(listing, files=files) == "EACCES"


@pytest.mark.skipif(not can_scope_sockets(), reason="this host's kernel has no scopes of Landlock")
def test_planners_do_not_reach_each_other_or_the_process_that_forks_them(bench: Bench) -> None:
    for code, refusal in (
        ("os.kill(1, 0)", "EPERM"),
        ("open('/proc/1/mem', 'rb')", "EACCES"),
        ("os.listdir('/proc/1/fd')", "EACCES"),
        ("os.listdir('/tmp')", "EACCES"),
    ):
        assert bench.ask(TRYING.format(code=code)) == refusal
        # Its own processes, and its own directory, it reaches.
        started = """
import subprocess
child = subprocess.Popen(["sleep", "1"]).pid
while open(f"/proc/{child}/comm").read() != "sleep\\n":
    pass
"""
        own = code.replace("(1,", "(child,").replace("'/proc/1/", "f'/proc/{child}/")
        own = own.replace("'/tmp'", "tempfile.gettempdir()")
        assert bench.ask(started + TRYING.format(code=own)) == "done"


@pytest.mark.skipif(not can_scope_sockets(), reason="this host's kernel has no scopes of Landlock")
def test_abstract_sockets_of_the_host_are_out_of_reach(bench: Bench, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0dcd-test-{os.getpid()}")
        listening.listen()
        tried = TRYING.format(
            code=f"socket.socket(socket.AF_UNIX).connect('\\0dcd-test-{os.getpid()}')"
        )
        assert outside(tried, tmp_path) == "done"
        assert bench.ask(tried) == "EPERM"


def test_the_state_directory_and_the_socket_are_hidden_inside_what_is_shown(
    bench: Bench, tmp_path: Path
) -> None:
    """As where a daemon is started in a directory that holds both, which is in Python's search path."""
    bench.blobs.chmod(0o700)
    (tmp_path / "beside").touch()
    bench.settings = replace(bench.settings, worker_paths=(tmp_path,), socket=tmp_path / "socket")
    user = service_identity(bench.state)
    os.chown(bench.blobs, user.uid, user.gid)
    own = bench.captured("own")
    for path, answer in (
        (own.path, "done"),
        (tmp_path / "beside", "done"),
        (bench.state / "events.db", "ENOENT"),
        (tmp_path / "socket", "ENOENT"),
    ):
        tried = TRYING.format(code=f"Path('{path}').read_text()")
        assert bench.ask(tried, files={"/home/a": own}) == answer
        # The daemon listens when its planners run already.
        (tmp_path / "socket").touch()


def test_what_a_planner_leaves_behind_ends_with_it(bench: Bench) -> None:
    tried = """
import os, tempfile, time
open(os.path.join(tempfile.gettempdir(), "left"), "w").close()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
os.wait()
said = "left"
"""
    assert bench.ask(tried) == "left"
    deadline = time.monotonic() + 20
    while len(inside := bench.inside()) > 1:
        assert time.monotonic() < deadline, inside
        time.sleep(0.02)
    assert list(Path(f"/proc/{inside[0]}/root/tmp").glob("planner-*")) == []


def test_the_views_mounts_are_in_its_namespace_only(bench: Bench) -> None:
    bench.ask("said = 1")
    assert str(bench.blobs) not in Path("/proc/self/mountinfo").read_text()
    (forker,) = bench.inside()
    assert str(bench.blobs) in Path(f"/proc/{forker}/mountinfo").read_text()


def test_a_confined_program_of_a_planner_has_no_network_unless_it_is_allowed(bench: Bench) -> None:
    tried = """
import sys, tempfile
from pathlib import Path
from dcd.platform.sandbox import Allowed, code_places, printed, run_confined
from store.host.process import ToolFailed
place = Path(tempfile.mkdtemp())
program = [sys.executable, "-c", "import socket; socket.socket(socket.{family}); print('made')"]
try:
    said = run_confined(program, place, 20, Allowed(network={network}, seen=code_places())).strip()
except ToolFailed:
    said = printed(place).splitlines()[-1]
"""
    assert bench.ask(tried.format(family="AF_INET", network=True)) == "made"
    assert bench.ask(tried.format(family="AF_UNIX", network=False)) == "made"
    for family in ("AF_INET", "AF_INET6", "AF_NETLINK"):
        said = bench.ask(tried.format(family=family, network=False))
        assert "Address family not supported" in said


@pytest.mark.skipif(not can_restrict_files(), reason="this host's kernel has no Landlock")
def test_a_confined_program_of_a_planner_sees_no_settings_of_apt(bench: Bench) -> None:
    tried = """
import tempfile
from pathlib import Path
from dcd.platform.sandbox import Allowed, printed, run_confined
from store.host.process import ToolFailed
place = Path(tempfile.mkdtemp())
(place / "given").write_text("given")
try:
    said = run_confined(["/bin/cat", {path}], place, 20, Allowed(seen={seen}))
except ToolFailed:
    said = printed(place)
"""
    apt = next(path for path in Path("/etc/apt").rglob("*") if path.is_file())
    for path, readable in (("str(place / 'given')", True), (repr(str(apt)), False)):
        said = bench.ask(tried.format(path=path, seen=()))
        assert ("Permission denied" in said) is not readable
    assert "Permission denied" not in bench.ask(tried.format(path=repr(str(apt)), seen=None))


def test_a_captured_file_is_validated(bench: Bench) -> None:
    def check(content: str) -> bool:
        text = (
            '<dc><distro name="x"><software name="t" type="DEB"><source>'
            '<repository suite="stable" uri="http://127.0.0.1:9/"/></source></software><execution>'
            '<checkpoint name="t" mod_path="dcd/checkpoints/transfer/deb" '
            'checkpoint_class="TransferDEB"/><checkpoint name="a" '
            'mod_path="dcd/checkpoints/image/configure" checkpoint_class="DebianPrePkgImgMod"/>'
            '</execution><configuration name="a" source="a.conf" dest="/etc/a">'
            '<validation path="/usr/bin/grep" args="-q good"/></configuration></distro></dc>'
        )
        files = {"/home/a.conf": bench.captured(content)}
        asked = Manifest(text, "/home/m.xml", Rules(), files, host_code=True)
        found = asyncio.run(bench.planner.ask(CHECK, asked, ADA))
        return any("grep" in diagnostic.message for diagnostic in found)

    assert not check("good\n")
    with pytest.raises(DcdError, match=r"grep -q good refuses a\.conf"):
        check("bad\n")


@pytest.fixture
def srv() -> Iterator[Path]:
    """A directory of the host in which people keep what they serve."""
    directory = Path(tempfile.mkdtemp(prefix="dcd-test-", dir="/srv"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def test_a_file_that_a_question_is_about_is_shown_if_everybody_can_read_it(
    bench: Bench, srv: Path, tmp_path: Path
) -> None:
    file = srv / "file"
    file.write_text("public")
    file.chmod(0o644)
    assert bench.ask(TRYING.format(code=f"Path('{file}').read_text()")) == "ENOENT"
    assert bench.ask(SHOW.format(path=str(file))) == "public"
    for closed in (file, srv):
        mode = closed.stat().st_mode
        closed.chmod(0o700)
        with pytest.raises(DcdError):
            bench.ask(SHOW.format(path=str(file)))
        closed.chmod(mode)
    (srv / "to-file").symlink_to(file)
    assert bench.ask(SHOW.format(path=f"{srv}/to-file")) == "public"
    # Everybody could read it, if the directories above it were open.
    (tmp_path / "inside").write_text("closed")
    (srv / "to-inside").symlink_to(tmp_path / "inside")
    with pytest.raises(DcdError):
        bench.ask(SHOW.format(path=f"{srv}/to-inside"))
    for kernels in ("/sys/kernel/notes", "/run/x", "/etc/shadow"):
        with pytest.raises(DcdError):
            bench.ask(SHOW.format(path=kernels))


def test_a_repository_in_a_directory_is_planned(bench: Bench, srv: Path) -> None:
    (srv / "dists/test").mkdir(parents=True)
    (srv / "dists/test/InRelease").write_text("state")
    text = (
        '<dc><distro name="x"><software name="t" type="DEB"><source>'
        f'<repository suite="test" uri="file://{srv}"/></source></software><execution>'
        '<checkpoint name="t" mod_path="dcd/checkpoints/transfer/deb" '
        'checkpoint_class="TransferDEB"/></execution></distro></dc>'
    )
    asked = Manifest(text, "/home/m.xml", Rules())
    planned, _sbom = asyncio.run(bench.planner.ask(PLAN, asked, ADA)).plan.checkpoints
    digest = hashlib.sha256(b"state").hexdigest()
    assert (f"file://{srv} test", digest) in {(i.name, i.digest) for i in planned.ingredients}
    (srv / "dists").chmod(0o700)
    with pytest.raises(Unprepared):
        asyncio.run(bench.planner.ask(PLAN, asked, ADA))


IN_NAMESPACE = """
import asyncio, os, subprocess, sys
from pathlib import Path
sys.path[:0] = [{modules!r}, {root!r}]
from dcd.manifest.secrets import Borrower
from statemachine.errors import DcdError, PermissionDenied
from tests.dcd.planner.conftest import SHOW, TRYING, Bench
bench = Bench(Path({state!r}))
for source, target in {mounts!r}:
    subprocess.run(["mount", "--bind", source, target], check=True)
with bench.planner:
    {code}
"""


def in_namespace(tmp_path: Path, mounts: dict[Path, str], code: str) -> str:
    """Run code with a bench on a host that has these directories; returns its output."""
    (tmp_path / "other-state").mkdir()
    script = IN_NAMESPACE.format(
        modules=str(tmp_path / "modules"),
        root=str(Path(__file__).parents[3]),
        state=str(tmp_path / "other-state"),
        mounts=[(str(source), target) for source, target in mounts.items()],
        code=code.replace("\n", "\n    "),
    )
    command = ["unshare", "--mount", sys.executable, "-c", script]
    with there(map(Path, mounts.values())):
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def there(targets: Iterable[Path]) -> Iterator[None]:
    """Directories of the host to mount on, which are gone afterwards if they were not there before."""
    made = [
        each
        for target in targets
        for each in (*reversed(target.parents), target)
        if not each.exists()
    ]
    for each in made:
        each.mkdir(mode=0o711, exist_ok=True)
    try:
        yield
    finally:
        for each in reversed(made):
            with suppress(OSError):  # in use by another test
                each.rmdir()


def test_a_secret_is_shown_to_the_questions_of_its_users_only(bench: Bench, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "key").write_text("sesame")
    (secrets / "key").chmod(0o640)
    os.chown(secrets / "key", 0, 70077)
    asked = SHOW.format(path="/etc/dcd/secrets/key")
    code = f"""
print(bench.ask({asked!r}), bench.ask({asked!r}, borrower=Borrower(70001, "ada", (70077,))))
try:
    bench.ask({asked!r}, borrower=Borrower(70002, "bob"))
except PermissionDenied as denied:
    print(denied.brief)
print(bench.ask(TRYING.format(code="Path('/etc/dcd/secrets/key').read_text()")))
"""
    said = in_namespace(tmp_path, {secrets: "/etc/dcd/secrets"}, code).splitlines()
    assert said == ["sesame sesame", "bob may not use the secret /etc/dcd/secrets/key", "ENOENT"]


def test_a_link_elsewhere_does_not_lead_to_a_secret_of_others(bench: Bench, tmp_path: Path) -> None:
    """The users of a secret are checked by its name below /etc/dcd/secrets. Anybody can make a link to it."""
    secrets, place = tmp_path / "secrets", tmp_path / "place"
    secrets.mkdir(mode=0o700)
    place.mkdir(mode=0o755)
    (secrets / "key").write_text("sesame")
    (secrets / "key").chmod(0o600)
    (place / "link").symlink_to("/etc/dcd/secrets/key")
    asked = SHOW.format(path="/srv/dcd-test-place/link")
    code = f"""
try:
    print(bench.ask({asked!r}, borrower=Borrower(70002, "bob")))
except DcdError as error:
    print("refused")
"""
    mounts = {secrets: "/etc/dcd/secrets", place: "/srv/dcd-test-place"}
    assert "sesame" not in in_namespace(tmp_path, mounts, code)


def test_a_repository_with_a_login_of_the_host_is_asked(
    bench: Bench, tmp_path: Path, mirror, apt_host: Path
) -> None:
    mirror.login = "user:p@ss"
    mirror.publish("test")
    (apt_host / "sources.list").write_text(f"deb [trusted=yes] {mirror.uri} test main\n")
    login = apt_host / "auth.conf.d/one.conf"
    login.write_text(f"machine {mirror.uri} login user password p@ss\n")
    login.chmod(0o600)
    asked = """
from dcd.platform.apt import host_apt
from dcd.platform.asking import ask_releases
host = host_apt()
said = list(ask_releases(host.sources, host, patient=False))
"""
    code = f"""
print(bench.ask({asked!r}))
login = Path("/etc/apt/auth.conf.d/one.conf")
right = login.read_text()
login.write_text(right.replace("p@ss", "other"))
try:
    bench.ask({asked!r})
except DcdError as refused:
    print(type(refused).__name__)
login.write_text(right)
print(bench.ask({asked!r}))
"""
    said = in_namespace(tmp_path, {apt_host: "/etc/apt"}, code).splitlines()
    assert said == [f"['{mirror.uri} test']", "Unprepared", f"['{mirror.uri} test']"]


def test_an_identity_that_is_not_separate_needs_no_namespaces() -> None:
    plain = command(
        7, Identity(1000, 1000, separate=False), Sight(blobs=Path("/x/blobs"), hidden=(Path("/x"),))
    )
    assert plain[-1] == "7"
    assert "unshare" not in plain


def test_the_environment_of_planners_has_no_secrets() -> None:
    given = {"DCD_SECRET_X": "x", "http_proxy": "p", "LC_ALL": "C", "NOTIFY_SOCKET": "/run/x"}
    assert environment(given).keys() - {"PYTHONPATH"} == {"http_proxy", "LC_ALL"}


def test_nothing_else_is_imported_before_root_is_given_up() -> None:
    code = (
        "import sys; import dcd.planner.command, dcd.planner.confinement\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('dcd', 'statemachine'))"
        ", [n for n in ('msgspec', 'lxml', 'structlog') if n in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    own = ["dcd", "dcd.planner", "dcd.planner.command", "dcd.planner.confinement"]
    allowed = {*own, "statemachine", "statemachine.errors"}
    assert set(eval(printed.split("]")[0] + "]")) <= allowed
    assert printed.strip().endswith("[]")
