"""The launcher refuses and logs what is malformed, out of order or out of bounds, and goes on."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcd.launcher.bounds import granted
from dcd.launcher.client import Launcher
from dcd.launcher.orders import AttemptOrder, Bounds, Setup, Wanted
from statemachine.errors import DcdError, PermissionDenied, Unavailable, UsageError
from store.host.conversation import HEAD, MOST_BYTES, receive, result_of, send
from store.layers import LayerRecord
from tests.dcd.launcher.conftest import UID, Bench, converse
from tests.store.deep import fill

pytestmark = [pytest.mark.root, pytest.mark.slow]

KEY = "0" * 64
EMPTY = '<dc><distro name="x"><execution/></distro></dc>'


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\0",
        HEAD.pack(10),
        HEAD.pack(3) + b"{}}",
        HEAD.pack(4) + b"\xff\xfe\xfd\xfc",
        HEAD.pack(MOST_BYTES + 1),
        HEAD.pack(0xFFFF_FFFF),
    ],
    ids=["nothing", "half a length", "no body", "no JSON", "no text", "too long", "much too long"],
)
def test_what_is_no_message(bench: Bench, sent: bytes) -> None:
    with converse(bench.launcher) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass


@pytest.mark.parametrize(
    "request_",
    [
        None,
        [],
        "prepare",
        {},
        {"operation": "commit"},
        {"operation": ["commit"], "arguments": {}},
        {"operation": "commit", "arguments": []},
        {"operation": "commit", "arguments": {}, "more": 1},
        {"operation": "commit", "arguments": {"name": "x"}},
        {"operation": "commit", "arguments": {"name": 1, "record": {}, "document": None}},
        {"operation": "remove_results", "arguments": {"build": "b", "and": "more"}},
        {"operation": "__init__", "arguments": {}},
        {"operation": "attempt", "arguments": {}},
        {"operation": "layers.enter", "arguments": {"backend": "copy", "workspace": "x"}},
        {"operation": "layers.find", "arguments": {"backend": "zfs", "key": KEY}},
        {"operation": "layers.__class__", "arguments": {"backend": "copy"}},
        {"operation": "_secret", "arguments": {"name": "/etc/shadow"}},
    ],
    ids=str,
)
def test_what_is_no_request(bench: Bench, request_: object) -> None:
    with pytest.raises(UsageError):
        result_of(bench.say(request_))


def test_nothing_before_it_is_prepared_and_no_second_time(launcher: Launcher, setup: Setup) -> None:
    with pytest.raises(UsageError, match="refuses"):
        launcher.call("layers.find", backend="copy", key=KEY)
    launcher.prepare(setup)
    with pytest.raises(UsageError, match="refuses"):
        launcher.prepare(setup)


def test_a_conversation_without_a_socket_or_with_more(bench: Bench) -> None:
    control = bench.launcher._control
    control.send(b"C")
    socket.send_fds(control, [b"C"], [0, 1, 2])
    devnull = os.open(os.devnull, os.O_RDONLY)
    socket.send_fds(control, [b"C"], [devnull])
    os.close(devnull)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", "/etc", "x\0y", "x" * 300, "a b"])
def test_names_that_lead_elsewhere(bench: Bench, name: str, tmp_path: Path) -> None:
    outside = tmp_path / "x"
    outside.mkdir()
    (outside / "kept").touch()
    layers = {"backend": "copy"}
    for operation, arguments in {
        "layers.begin": {**layers, "parent": None, "name": name},
        "layers.release": {**layers, "name": name},
        "layers.branch": {**layers, "source": name, "name": "w"},
        "layers.remove": {**layers, "key": name},
        "layers.touch": {**layers, "key": name},
        "remove_results": {"build": name},
        "write": {"build": name, "name": "x", "file_format": "text", "content": ""},
        "marker": {"build": "b", "name": name},
        "close_shell": {"build": "b", "name": name},
        "release": {"kind": "iscsi-lio", "name": name},
    }.items():
        if name != "x" * 300 or "layers" not in operation:
            assert "error" in bench.ask(operation, **arguments), operation
    assert (outside / "kept").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "x"]


@pytest.mark.parametrize(
    "more",
    [
        {"wanted": Wanted(host_code=True)},
        {"wanted": Wanted(capabilities=("SYS_PTRACE",))},
        {"wanted": Wanted(devices=("*",))},
        {"wanted": Wanted(devices=("sda",)), "mod_path": "dcd/checkpoints/vm/relabel"},
        {"wanted": Wanted(writes=(Path("/etc"),))},
        {"wanted": Wanted(writes=(Path("/etc"),)), "mod_path": "dcd/checkpoints/vm/install_iscsi"},
        {"wanted": Wanted(reads=(Path("/"),))},
        {"wanted": Wanted(reads=(Path("/etc/shadow"),))},
        {"wanted": Wanted(reads=(Path("/srv/../etc"),))},
        {"wanted": Wanted(reads=(Path("/root"),))},
        {"environment": {"LD_PRELOAD": "/tmp/x.so"}},
        {"environment": {"PATH": "/tmp"}},
        {"inputs": {"/a": "../id"}},
        {"build": "../x"},
        {"checkpoint": "../../x"},
        {"workspace": "never-begun"},
    ],
    ids=str,
)
def test_attempts_beyond_what_the_configuration_allows(bench: Bench, more: dict[str, Any]) -> None:
    with pytest.raises(DcdError) as refused:
        result_of(bench.attempt(bench.order(**more)))
    assert refused.value.problem in ("permission", "not-found")
    assert list((bench.state / "logs").rglob("*.log")) == []


def test_a_link_of_the_captured_files_user_is_not_followed(bench: Bench) -> None:
    (bench.state / "blobs" / KEY).symlink_to("/etc/shadow")
    with pytest.raises(DcdError, match="cannot be read"):
        result_of(bench.attempt(bench.order(inputs={"/captured": KEY})))


def test_code_of_users_runs_where_the_configuration_lets_somebody_run_it(
    launcher: Launcher, setup: Setup
) -> None:
    setup = replace(setup, bounds=Bounds(host_code=True))
    bench = Bench(launcher, setup, launcher.prepare(setup))
    assert bench.attempt(bench.order(wanted=Wanted(host_code=True))) == {"result": None}


def test_what_it_refuses_is_in_its_log(tmp_path: Path, setup: Setup) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from dcd.launcher.client import Launcher\n"
        "launcher = Launcher()\n"
        "try: launcher.call('layers.find', backend='copy', key='x')\n"
        "except Exception as error: print(error)\n"
        "launcher.close()\n"
    )
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert "the launcher refuses a request" in done.stdout
    assert "refused a request" in done.stderr
    assert "before the launcher is prepared" in done.stderr


def test_it_ends_with_the_daemon_and_the_daemon_learns_of_its_end(setup: Setup) -> None:
    launcher = Launcher()
    launcher.prepare(setup)
    launcher.process.kill()
    launcher.process.wait()
    with pytest.raises(Unavailable, match="has ended"):
        launcher.layers.find(KEY)
    launcher.close()


def test_it_imports_nothing_but_the_standard_library_and_this_project() -> None:
    program = (
        "import sys, dcd.launcher.__main__\n"
        "own = {'dcd', 'store', 'statemachine'}\n"
        "print(sorted({name.split('.')[0] for name, module in sys.modules.items()\n"
        "    if name.split('.')[0] not in own | sys.stdlib_module_names | set(BEFORE)}))\n"
    )
    program = program.replace("BEFORE", "'__main__ __mp_main__'.split() + START")
    program = "import sys; START = [n.split('.')[0] for n in sys.modules]\n" + program
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


def test_a_reply_that_nobody_takes_stops_nothing(bench: Bench) -> None:
    for _ in range(50):
        with converse(bench.launcher) as connection:
            connection.sendall(HEAD.pack(2))
    with converse(bench.launcher) as connection:
        connection.sendall(HEAD.pack(2) + b"{}")
        reply, _ = receive(connection)
    assert reply["error"]["classes"][0] == "UsageError"


def outcome(bench: Bench, order: AttemptOrder, meanwhile: Callable[[], object]) -> str:
    """The messages of an attempt. `meanwhile` is called when the launcher has started its worker."""
    receiving, sending = os.pipe()
    with converse(bench.launcher) as connection, os.fdopen(receiving) as messages:
        send(connection, {"operation": "attempt", "arguments": order}, (sending,))
        os.close(sending)
        result_of(receive(connection)[0])
        meanwhile()
        said = messages.read()
        result_of(receive(connection)[0])
    return said


def secret_in(directory: Path) -> Path:
    """A file of root's that nobody else may read."""
    directory.mkdir(mode=0o700)
    secret = directory / "secret"
    secret.write_text("of root")
    secret.chmod(0o600)
    return secret


@pytest.mark.parametrize("kind", ["link", "second name"])
def test_a_captured_file_that_is_replaced_after_the_check_is_not_shown(
    bench: Bench, tmp_path: Path, kind: str
) -> None:
    secret = secret_in(tmp_path / "private")
    captured = bench.state / "blobs" / KEY
    captured.write_text("captured")
    os.chown(captured, UID, UID)

    def replace_it() -> None:
        captured.unlink()
        captured.symlink_to(secret) if kind == "link" else captured.hardlink_to(secret)

    order = bench.order(
        manifest=EMPTY, inputs={"/x": KEY}, kwargs={"script": "/x", "chroot": "true"}
    )
    assert "not a captured file" in outcome(bench, order, replace_it)


def test_a_path_that_is_replaced_after_the_check_is_not_shown(bench: Bench, tmp_path: Path) -> None:
    secret = secret_in(tmp_path / "private")
    named = Path("/srv", f"dcd-test-{os.getpid()}")
    named.mkdir()

    def replace_it() -> None:
        named.rmdir()
        named.symlink_to(secret.parent)

    try:
        order = bench.order(manifest=EMPTY, wanted=Wanted(reads=(named,)), args=("true",))
        assert "the way to it has changed" in outcome(bench, order, replace_it)
    finally:
        named.unlink()


@pytest.mark.parametrize("path", ["/", "/var", "/var/lib", "/etc/apt"])
def test_what_holds_other_peoples_files_is_not_shown(bench: Bench, path: str) -> None:
    with pytest.raises(PermissionDenied):
        result_of(bench.attempt(bench.order(wanted=Wanted(reads=(Path(path),)))))


def test_a_workspace_that_a_worker_changes_is_used_for_nothing_else(bench: Bench) -> None:
    """A worker could exchange a directory on the way to an artifact for a link to a directory of the host."""
    order = bench.order(manifest=EMPTY, args=("sleep 60",))
    record = LayerRecord("1" * 64, None, "b", "one", 1, 0.0)

    def try_it() -> None:
        layers = {"backend": "copy"}
        for operation, arguments in {
            "commit": {"name": order.workspace, "record": record, "document": None},
            "layers.branch": {**layers, "source": order.workspace, "name": "other"},
            "layers.release": {**layers, "name": order.workspace},
        }.items():
            refused = bench.refusal(operation, **arguments)
            assert "in use" in refused, operation
        with pytest.raises(DcdError, match="in use"):
            result_of(bench.attempt(order))
        assert bench.ask("layers.reconcile", **layers, known_keys=[], living=[]) == {"result": []}

    outcome(bench, order, try_it)
    bench.ask("commit", name=order.workspace, record=record, document=None)["result"]


def test_a_tree_deeper_than_any_path_holds_nothing_up(bench: Bench) -> None:
    """The next start lists and removes the workspaces that are left."""
    name = bench.order().workspace
    (tree,) = bench.state.glob(f"layers/copy/.work/{name}/layer/tree")
    fill(tree, 3000)
    assert bench.ask("layers.workspaces", backend="copy") == {"result": [[name, 0]]}
    record = LayerRecord("1" * 64, None, "b", "one", 1, 0.0)
    assert "error" in bench.ask("commit", name=name, record=record, document=None)
    removed = bench.ask("layers.reconcile", backend="copy", known_keys=[], living=[])
    assert removed == {"result": [f"workspace {name}"]}
    assert list(bench.state.glob("layers/copy/.work/*")) == []


def test_a_link_to_a_secret_that_is_replaced_after_the_check_shows_nothing(
    bench: Bench, tmp_path: Path
) -> None:
    secret = secret_in(tmp_path / "private")
    link = tmp_path / "link"
    link.symlink_to("/etc/dcd/secrets/none")
    wanted = Wanted(secrets=(str(link), "/etc/dcd/secrets/none", "/etc/dcd/secrets/../../shadow"))
    grants = granted(bench.order(wanted=wanted), Bounds())
    link.unlink()
    link.symlink_to(secret)
    assert grants.secrets == (Path("/etc/dcd/secrets/none"),)
    assert grants.named == {}


def test_targets_of_others_are_not_released(bench: Bench) -> None:
    for name in ("iqn.2003-01.org.linux-iscsi.server:disk", "iqn.2026-11.invalid.dcdx:a"):
        assert "refuses to release" in bench.refusal("release", kind="iscsi-lio", name=name)


def test_messages_go_through_a_pipe_only(bench: Bench) -> None:
    """Another descriptor, as of a directory of the host, would be open in the worker."""
    order = bench.order()
    descriptor = os.open("/", os.O_RDONLY)
    try:
        reply = bench.say({"operation": "attempt", "arguments": order}, (descriptor,))
    finally:
        os.close(descriptor)
    assert "through a pipe" in str(reply["error"])
