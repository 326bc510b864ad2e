"""Users of each role try what they may and may not, over the socket of a real daemon.

The daemon is private and runs as root; each request comes from a process that has become another user,
so that the kernel, the configuration and the API all have their say.
"""

import grp
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.daemon]

ROOT = Path(__file__).parents[2]
USERS = {"nobody_at_all": 70010, "observer": 70011, "submitter": 70012, "operator": 70013}
USERS |= {"administrator": 70014, "scripter": 70015}

PYTHON = (sys.executable, "-I", "-S", "-c")
"""Starts fast, and needs nothing but the standard library."""

REQUEST = """
import http.client, json, os, socket, sys
path, uid, method, target, body = sys.argv[1:]
os.setgroups([])
os.setgid(int(uid))
os.setuid(int(uid))
connection = http.client.HTTPConnection("dcd", timeout=60)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(path)
try:
    connection.request(method, target, body or None, {"Content-Type": "application/json"})
except BrokenPipeError:
    pass  # refused before the body was read: the answer is there
answer = connection.getresponse()
print(json.dumps([answer.status, answer.read().decode(errors="replace")]))
"""


def manifest(name: str, mod_path: str, checkpoint_class: str, software: str = "") -> str:
    return (
        f'<dc><distro name="small">{software}<execution stop_on_error="true">'
        f'<checkpoint name="{name}" mod_path="{mod_path}" checkpoint_class="{checkpoint_class}">'
        + ("" if software else "<args>true</args>")
        + "</checkpoint></execution></distro></dc>"
    )


SCRIPT = manifest("script", "dcd/checkpoints/custom_script", "CustomScript")
HARMLESS = manifest(
    "copy",
    "dcd/checkpoints/transfer/cpio",
    "TransferCPIO",
    '<software name="copy" type="CPIO">'
    '<destination><dir path="{BOOT_ARCHIVE}"/></destination>'
    '<source><dir path="{PKG_IMAGE_PATH}"/></source>'
    "<software_data><name>etc</name></software_data></software>",
)


class Daemon:
    """A daemon whose socket everybody can reach; `ask` asks as one of USERS, or as root."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "dcd.sock"
        settings = directory / "dcd.toml"
        roles = {"observer": "observe", "submitter": "submit", "operator": "operate"}
        roles |= {"administrator": "administer"}
        lines = [f'{role} = ["{USERS[user]}"]' for user, role in roles.items()]
        lines.append('host_code = ["70015"]')
        lines[1] = 'submit = ["70012", "70015"]'
        settings.write_text('socket_mode = "0666"\ngroup = ""\n' + "\n".join(lines) + "\n")
        state = ["--state-dir", str(directory / "state"), "--socket", str(self.socket)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dcd.main", "serve", *state, "--config", str(settings)],
            cwd=ROOT,
            stderr=(directory / "log").open("w"),
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _answers(self) -> bool:
        return self.socket.exists() and self.ask(0, "GET", "/v1/health")[0] == 200

    def ask(
        self, who: str | int, method: str, target: str, body: dict[str, Any] | None = None
    ) -> tuple[int, Any]:
        uid = USERS[who] if isinstance(who, str) else who
        text = json.dumps(body) if body is not None else ""
        command = [*PYTHON, REQUEST, str(self.socket), str(uid), method, target, text]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if result.returncode != 0:
            return 0, result.stderr
        status, answer = json.loads(result.stdout)
        return status, json.loads(answer) if answer.startswith("{") else answer

    def submit(self, who: str | int, text: str) -> tuple[int, Any]:
        return self.ask(who, "POST", "/v1/builds", submission(text))


def submission(text: str) -> dict[str, Any]:
    first = text.split('<checkpoint name="')[1].split('"')[0]
    return {"manifest": {"path": "/m.xml", "text": text}, "pause_before": first}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    # Not tmp_path: only root may pass through that.
    directory = Path(tempfile.mkdtemp(prefix="dcd-roles-"))
    directory.chmod(0o711)
    started = None
    try:
        started = Daemon(directory)
        yield started
    finally:
        if started is not None:
            started.process.send_signal(signal.SIGTERM)
            started.process.wait(60)
        shutil.rmtree(directory)


@pytest.fixture
def build_of_root(daemon: Daemon) -> str:
    status, build = daemon.submit(0, HARMLESS)
    assert status == 201, build
    return str(build["id"])


EVERYBODY = set(USERS)
SUBMITTERS = {"submitter", "operator", "administrator", "scripter"}
SEERS = EVERYBODY - {"nobody_at_all"}
OPERATORS = {"operator", "administrator"}
OPEN = ("version", "health", "health/live", "openapi.json", "whoami")
STEERING = ("pause", "resume", "move", "cancel", "retry")
PLANNING = ("groups", "groups/plan", "groups/validate", "locks", "migrate", "plan", "validate")
ROUTES = {
    **{("GET", f"/v1/{name}"): EVERYBODY for name in OPEN},
    **{("POST", f"/v1/builds/{{id}}/{name}"): OPERATORS for name in STEERING},
    **{("POST", f"/v1/{name}"): SUBMITTERS for name in PLANNING},
    **{("GET", f"/v1/{name}"): {"administrator"} for name in ("backup", "config")},
    **{("POST", f"/v1/{name}"): {"administrator"} for name in ("gc", "reload")},
    ("GET", "/metrics"): SEERS,
    ("GET", "/v1/events"): SEERS,
    ("GET", "/v1/groups/{id}"): SEERS,
    ("GET", "/v1/webhooks"): SEERS,
    ("GET", "/v1/builds"): SEERS,
    ("GET", "/v1/builds/{id}"): SEERS,
    ("GET", "/v1/builds/{id}/artifacts"): SEERS,
    ("GET", "/v1/builds/{id}/artifacts/{artifact}"): SEERS,
    ("POST", "/v1/builds/{id}/artifacts/verify"): SEERS,
    ("GET", "/v1/builds/{id}/checkpoints"): SEERS,
    ("GET", "/v1/builds/{id}/doc"): SEERS,
    ("GET", "/v1/builds/{id}/events"): SEERS,
    ("GET", "/v1/builds/{id}/events/verify"): SEERS,
    ("GET", "/v1/builds/{id}/graph"): SEERS,
    ("GET", "/v1/builds/{id}/lock"): SEERS,
    ("GET", "/v1/builds/{id}/provenance"): SEERS,
    ("GET", "/v1/builds/{id}/diff/{other}"): SEERS,
    ("POST", "/v1/builds/{id}/bisect"): SUBMITTERS,
    ("GET", "/v1/builds/{id}/comparison"): SEERS,
    ("POST", "/v1/builds/{id}/reproduce"): OPERATORS,
    ("GET", "/v1/layers"): SEERS,
    ("POST", "/v1/layers/{key}/verify"): SEERS,
    ("GET", "/v1/builds/{id}/verdict"): SEERS,
    # They lead to the captured files, which are the submitter's.
    ("GET", "/v1/builds/{id}/export"): set(),
    ("POST", "/v1/builds/{id}/rebuild"): set(),
    ("GET", "/v1/builds/{id}/logs"): SEERS,
    ("GET", "/v1/builds/{id}/logs/{checkpoint}/{attempt}"): SEERS,
    ("GET", "/v1/builds/{id}/logs/{checkpoint}/{attempt}/files"): SEERS,
    ("GET", "/v1/builds/{id}/logs/{checkpoint}/{attempt}/files/{file}"): SEERS,
    ("GET", "/v1/checkpoint-types"): SEERS,
    ("GET", "/v1/df"): SEERS,
    ("GET", "/v1/doctor"): SEERS,
    ("GET", "/v1/hosts"): SEERS,
    ("POST", "/v1/hosts/{host}/drain"): {"administrator"},
    ("POST", "/v1/hosts/{host}/resume"): {"administrator"},
    ("POST", "/v1/builds"): SUBMITTERS,
    ("PUT", "/v1/blobs/{sha256}"): SUBMITTERS,
    ("DELETE", "/v1/builds/{id}"): OPERATORS,
    ("POST", "/v1/webhooks/{name}/test"): {"administrator"},
    # For who is root too; see below.
    ("POST", "/v1/builds/{id}/shell"): set(),
}
"""Who may use each route of the API, on a build of somebody else's."""


def test_no_route_of_the_api_is_left_out() -> None:
    document = json.loads((ROOT / "docs/reference/openapi.json").read_text())
    described = {
        (method.upper(), target)
        for target, methods in document["paths"].items()
        for method in methods
    }
    assert described == set(ROUTES)


@pytest.mark.parametrize(
    ("method", "target", "allowed"), [(*route, allowed) for route, allowed in ROUTES.items()]
)
def test_a_role_may_what_it_may_and_nothing_else(
    daemon: Daemon, build_of_root: str, method: str, target: str, allowed: set[str]
) -> None:
    body: dict[str, Any] | None = None if method == "GET" else {}
    if target in ("/v1/validate", "/v1/plan", "/v1/migrate", "/v1/locks"):
        body = {"manifest": {"path": "/m.xml", "text": HARMLESS}}
    elif target.startswith("/v1/groups") and method == "POST":
        body = {**submission(HARMLESS), "matrix": {"who": ["a", "b"]}}
    elif target == "/v1/builds":
        body = submission(HARMLESS) if method == "POST" else None
    names = {"checkpoint": "copy", "attempt": 1, "sha256": "0" * 64, "artifact": "a.iso"}
    names |= {"other": build_of_root, "key": "0" * 64, "name": "ci", "file": "b.log", "host": "a"}
    path = target.format(id=build_of_root, **names)
    answers = {user: daemon.ask(user, method, path, body)[0] for user in USERS}
    assert 0 not in answers.values(), answers
    refused = {user for user, status in answers.items() if status == 403}
    # Another answer than 403 may be a conflict with the state: the request was let in.
    assert EVERYBODY - refused == allowed, answers


def test_only_a_submitter_submits_and_one_controls_ones_own_builds(daemon: Daemon) -> None:
    assert daemon.submit("observer", HARMLESS)[0] == 403
    status, build = daemon.submit("submitter", HARMLESS)
    assert (status, build["actor"]["uid"]) == (201, USERS["submitter"])
    cancel = f"/v1/builds/{build['id']}/cancel"
    assert daemon.ask("scripter", "POST", cancel, {})[0] == 403
    status, cancelled = daemon.ask("submitter", "POST", cancel, {})
    assert (status, cancelled["state"]) == (200, "cancelled")
    _, events = daemon.ask("observer", "GET", f"/v1/builds/{build['id']}/events")
    assert {event["actor"]["uid"] for event in events["events"]} <= {USERS["submitter"], None}


def test_a_shell_in_a_build_is_for_root_even_among_administrators(
    daemon: Daemon, build_of_root: str
) -> None:
    target = f"/v1/builds/{build_of_root}/shell"
    status, problem = daemon.ask("operator", "POST", target, {})
    assert (status, "administer" in problem["detail"]) == (403, True)
    status, problem = daemon.ask("administrator", "POST", target, {})
    assert (status, problem["resolution"]) == (403, "run it with sudo")


def test_code_on_the_host_needs_its_own_right_whatever_the_role(daemon: Daemon) -> None:
    for user in ("submitter", "operator", "administrator"):
        status, problem = daemon.submit(user, SCRIPT)
        assert (status, problem["type"]) == (403, "urn:dcd:problem:permission")
        assert "host_code" in problem["detail"]
    assert daemon.submit("scripter", SCRIPT)[0] == 201


def test_a_command_that_checks_a_file_needs_the_right_to_code_on_the_host(daemon: Daemon) -> None:
    checked = HARMLESS.replace(
        "</distro>",
        '<configuration name="copy" source="/a.json">'
        '<validation path="/usr/bin/grep" args="-q nothing"/></configuration></distro>',
    )
    sha256 = hashlib.sha256(b"{}").hexdigest()
    body = {
        "manifest": {"path": "/m.xml", "text": checked},
        "files": {"/a.json": {"sha256": sha256, "mode": 0o644}},
    }
    for user, told in (("submitter", "may not be run"), ("scripter", "refuses a.json")):
        assert daemon.ask(user, "PUT", f"/v1/blobs/{sha256}", {})[0] in (200, 201)
        status, problem = daemon.ask(user, "POST", "/v1/builds", body)
        assert (status, problem["type"]) == (422, "urn:dcd:problem:invalid-manifest")
        assert told in problem["title"]


def test_a_new_manifest_at_resume_is_measured_like_a_submitted_one(daemon: Daemon) -> None:
    _, build = daemon.submit("submitter", HARMLESS)
    resume = {"manifest": {"path": "/m.xml", "text": SCRIPT}}
    status, problem = daemon.ask("submitter", "POST", f"/v1/builds/{build['id']}/resume", resume)
    assert (status, "host_code" in problem["detail"]) == (403, True)


CAPTURING = HARMLESS.replace(
    "</distro>", '<configuration name="copy" source="/secret" dest="/etc/secret"/></distro>'
)


def test_a_captured_file_of_another_user_is_as_one_that_nobody_has_uploaded(daemon: Daemon) -> None:
    content = json.dumps({"password": "of the submitter"})
    sha256, unknown = hashlib.sha256(content.encode()).hexdigest(), hashlib.sha256().hexdigest()
    put = f"/v1/blobs/{sha256}"
    assert daemon.ask("submitter", "PUT", put, json.loads(content))[0] == 201
    answers = []
    for named in (sha256, unknown):
        files = {"/secret": {"sha256": named, "mode": 0o600}}
        for target in ("/v1/builds", "/v1/validate", "/v1/plan"):
            body = {"manifest": {"path": "/m.xml", "text": CAPTURING}, "files": files}
            status, answer = daemon.ask("operator", "POST", target, body)
            answers.append((status, answer["type"], answer["title"].replace(named, "DIGEST")))
        status, answer = daemon.ask("operator", "PUT", f"/v1/blobs/{named}", {"a": "guess"})
        answers.append((status, answer["type"], answer["title"]))
    assert answers[:4] == answers[4:]
    assert {status for status, *_ in answers} == {404, 400}
    assert daemon.ask("submitter", "PUT", put, json.loads(content))[0] == 200
    # Whoever has the content may use it, and learns nothing about others who have it.
    assert daemon.ask("operator", "PUT", put, json.loads(content))[0] == 201
    body["files"] = {"/secret": {"sha256": sha256, "mode": 0o600}}
    assert daemon.ask("operator", "POST", "/v1/validate", body)[0] == 200


def test_an_idempotency_key_belongs_to_a_user_and_to_what_was_submitted(daemon: Daemon) -> None:
    def submit(user: str, text: str = HARMLESS, **options: Any) -> tuple[int, Any]:
        body = {**submission(text), "idempotency_key": "nightly", **options}
        return daemon.ask(user, "POST", "/v1/builds", body)

    status, first = submit("submitter")
    assert status == 201
    status, others = submit("operator")
    assert (status, others["actor"]["uid"]) == (201, USERS["operator"])
    assert others["id"] != first["id"]
    status, again = submit("submitter")
    assert (status, again["id"]) == (200, first["id"])
    for changed in (
        {"text": HARMLESS.replace('name="small"', 'name="other"')},
        {"priority": 7},
        {"fresh": True},
        {"parameters": {"hostname": "box"}},
        {"files": {"/optional": None}},
    ):
        status, problem = submit("submitter", **changed)
        assert (status, problem["type"]) == (409, "urn:dcd:problem:refused"), changed
        assert first["id"] in problem["detail"]


WITH_A_SECRET = HARMLESS.replace("<dc>", '<dc><parameter name="code"/>').replace(
    "</distro>",
    '<configuration name="copy"><user name="u"><password>${code}</password></user></configuration>'
    "</distro>",
)


def test_a_secret_in_a_manifest_is_shown_to_who_supplied_it_and_root_alone(daemon: Daemon) -> None:
    secret = "supplied-by-the-submitter"
    body = {**submission(WITH_A_SECRET), "parameters": {"code": secret}}
    status, build = daemon.ask("submitter", "POST", "/v1/builds", body)
    assert status == 201, build
    at = f"/v1/builds/{build['id']}"
    targets = (
        at,
        f"{at}/events",
        f"{at}/doc",
        f"{at}/doc?path=//password.text",
        f"{at}/checkpoints",
    )
    seen = {
        user: sum(secret in json.dumps(daemon.ask(user, "GET", target)) for target in targets)
        for user in ("observer", "operator", "administrator", "scripter", "submitter", 0)
    }
    assert seen == {
        "observer": 0,
        "operator": 0,
        "administrator": 0,
        "scripter": 0,
        "submitter": 4,
        0: 4,
    }
    assert daemon.ask("observer", "GET", f"{at}/events/verify")[1]["ok"]


def test_a_build_whose_manifest_has_secrets_is_repeated_by_who_supplied_them_or_root_alone(
    daemon: Daemon,
) -> None:
    """The repetition has the manifest, which its submitter may see."""
    secret = '<configuration name="copy"><user name="u"><password>secret</password></user></configuration>'
    for given, others in ((secret, 403), ("<distro_spec/>", 201)):
        text = manifest("copy", "dcd/checkpoints/vm/create_disk", "CreateDisk", given)
        body = {**submission(text), "pause_before": None}
        status, build = daemon.ask("submitter", "POST", "/v1/builds", body)
        assert status == 201, build
        at = f"/v1/builds/{build['id']}"
        deadline = time.monotonic() + 60
        while daemon.ask(0, "GET", at)[1]["state"] != "completed":
            assert time.monotonic() < deadline, daemon.ask(0, "GET", at)
            time.sleep(0.1)
        found = {
            user: daemon.ask(user, "POST", f"{at}/reproduce", {})[0]
            for user in ("observer", "scripter", "operator", "submitter", 0)
        }
        expected = {"observer": 403, "scripter": 403, "operator": others, "submitter": 201, 0: 201}
        assert found == expected
        bisect = {"bad": build["id"], "test": "copy"}
        for user, expected_status in (("operator", others), ("submitter", 201)):
            status = daemon.ask(user, "POST", f"{at}/bisect", bisect)[0]
            assert status == (200 if expected_status == 201 else 403)


def test_the_event_log_blobs_and_layers_are_for_root_alone(daemon: Daemon) -> None:
    state = daemon.socket.parent / "state"
    program = (
        "import os, sys; os.setgroups([]); os.setgid(70011); os.setuid(70011)\n"
        "for path in sys.argv[1:]:\n"
        "    try: os.listdir(path) if os.path.isdir(path) else open(path).close()\n"
        "    except PermissionError: continue\n"
        "    print(path)\n"
    )
    private = [state, state / "events/events.db", state / "blobs", state / "layers"]
    assert all(path.exists() for path in private)
    paths = [str(path) for path in private]
    result = subprocess.run(
        [sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True
    )
    assert result.stdout == ""


def test_the_state_directory_is_closed_to_all_but_the_artifacts_group(tmp_path: Path) -> None:
    group = grp.getgrnam("games")
    for observe, reading in (["@games", group.gr_gid], ["70011", None]):
        directory = Path(tempfile.mkdtemp(prefix="dcd-roles-"))
        directory.chmod(0o711)
        try:
            settings = directory / "dcd.toml"
            settings.write_text(f'socket_mode = "0666"\ngroup = "games"\nobserve = ["{observe}"]\n')
            state = directory / "state"
            (state / "artifacts/old").mkdir(parents=True)
            (state / "artifacts/old/a.iso").write_text("delivered by version 0.1.0")
            where = ["--state-dir", str(state), "--socket", str(directory / "dcd.sock")]
            process = subprocess.Popen(
                [sys.executable, "-m", "dcd.main", "serve", *where, "--config", str(settings)],
                cwd=ROOT,
                stderr=subprocess.DEVNULL,
            )
            try:
                deadline = time.monotonic() + 60
                while not (directory / "dcd.sock").exists() and time.monotonic() < deadline:
                    time.sleep(0.05)
                assert readable(state, 70010, 70010) == []
                found = readable(state, 70010, group.gr_gid)
                artifacts = {"artifacts", "artifacts/old", "artifacts/old/a.iso"}
                assert set(found) == (artifacts if reading else set())
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
        finally:
            shutil.rmtree(directory)


def readable(state: Path, uid: int, gid: int) -> list[str]:
    """What of a state directory such a user can list or read, who knows the names of all that is there."""
    program = (
        "import os, sys; os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[2]))\n"
        "for path in sys.argv[3:]:\n"
        "    try: os.listdir(path) if os.path.isdir(path) else open(path).close()\n"
        "    except OSError: continue\n"
        "    print(path)\n"
    )
    paths = [str(state), *map(str, state.rglob("*"))]
    result = subprocess.run(
        [sys.executable, "-c", program, str(gid), str(uid), *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    return [str(Path(line).relative_to(state)) for line in result.stdout.splitlines()]


def test_a_user_without_the_sockets_group_does_not_get_in(tmp_path: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix="dcd-roles-"))
    try:
        directory.chmod(0o711)
        address = directory / "dcd.sock"
        where = ["--state-dir", str(tmp_path / "state"), "--socket", str(address)]
        process = subprocess.Popen(
            [sys.executable, "-m", "dcd.main", "serve", *where],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 60
            while not address.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert address.stat().st_mode & 0o777 == 0o660
            arguments = [str(address), "70010", "GET", "/v1/health", ""]
            result = subprocess.run(
                [*PYTHON, REQUEST, *arguments],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert "PermissionError" in result.stderr
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    finally:
        shutil.rmtree(directory)
