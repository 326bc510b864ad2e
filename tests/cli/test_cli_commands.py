"""Each command: what it asks of the API, and what it prints for people and for scripts."""

import json

import pytest

from statemachine import events as ev

ERROR = ev.ErrorInfo("grub-mkrescue exited with status 1", "no space", "free some space")
ISO = {
    "name": "live.iso",
    "path": "/var/lib/dcd/artifacts/k2p7abcd/live.iso",
    "format": "iso",
    "size_bytes": 110_000_000,
    "sha256": "a" * 64,
}


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "live.xml"
    path.write_text("<dc/>")
    return str(path)


@pytest.fixture
def build(daemon):
    """One checkpoint completed, one reused, one failed, one to come."""
    build = daemon.build(transfer_deb=45.0, ba_arch=10.0, boot_setup=5.0, create_iso=7.0)
    build.tell(
        ev.BuildStarted(),
        ev.CheckpointStarted("transfer-deb", 1, "k", "/l"),
        ev.CheckpointCompleted("transfer-deb", 1, "k", 41.2),
        ev.CheckpointReused("ba-arch", "k", "7fa2wxyz"),
        ev.CheckpointStarted("boot-setup", 1, "k", "/l"),
        ev.CheckpointFailed("boot-setup", 1, ERROR, 1.0),
        ev.BuildFailed("boot-setup", ERROR),
    )
    build.logs = {
        ("transfer-deb", 1): b"t1",
        ("boot-setup", 1): b"b1",
        ("boot-setup", 2): b"b2\xff",
    }
    build.view["artifacts"] = [ISO]
    return build


def test_submit_prints_the_id_alone(dcctl, daemon, manifest) -> None:
    view = daemon.build().view
    daemon.answers["POST", "/v1/builds"] = 201, view
    outcome = dcctl(
        "submit", manifest, "--pause-before", "boot-setup", "--set", "a=1", "--set", "b=x=y", "--fresh",
        "--priority", "-3", "--idempotency-key", "key",
    )  # fmt: skip
    assert (outcome.code, outcome.out, outcome.err) == (0, "k2p7abcd\n", "")
    sent = daemon.requests[-1].json
    assert {name: sent[name] for name in sent if name not in ("manifest", "files")} == {
        "parameters": {"a": "1", "b": "x=y"},
        "pause_before": "boot-setup",
        "fresh": True,
        "fresh_from": None,
        "priority": -3,
        "idempotency_key": "key",
    }
    assert json.loads(dcctl("submit", manifest, "--json").out)["id"] == "k2p7abcd"


def test_status_shows_every_checkpoint_and_the_error(dcctl, build) -> None:
    lines = dcctl("status", "k2").out.splitlines()
    assert lines[0] == "live k2p7abcd: failed"
    assert lines[2] == "  files dated 1970-01-01T00:00:00Z, as requested"
    assert lines[4:9] == [
        "CHECKPOINT    STATE       TIME  ATTEMPTS  NOTE",
        "transfer-deb  completed   41 s         1",
        "ba-arch       reused                   0  from 7fa2wxyz",
        "boot-setup    failed     1.0 s         1  grub-mkrescue exited with status 1",
        "create-iso    pending                  0  about 7.0 s",
    ]
    text = "\n".join(lines)
    assert "Error: grub-mkrescue exited with status 1\n  no space\n  free some space" in text
    assert "104.9 MiB  /var/lib/dcd/artifacts/k2p7abcd/live.iso" in text


def test_status_json_has_what_scripts_depend_on(dcctl, build) -> None:
    status = json.loads(dcctl("status", "k2", "--json").out)
    assert {"id", "name", "state", "reason", "checkpoints", "artifacts"} <= set(status)
    for checkpoint in status["checkpoints"]:
        fields = {"name", "state", "attempts", "key", "seconds", "reused_from"}
        assert fields <= set(checkpoint)


@pytest.mark.parametrize(
    ("command", "body"),
    [
        (["pause", "k2", "--before", "create-iso"], {"before": "create-iso"}),
        (["pause", "k2"], {"before": None}),
        (["pause", "k2", "--withdraw"], {"withdraw": True}),
        (["cancel", "k2"], None),
    ],
)
def test_pause_and_cancel_print_the_state(dcctl, daemon, build, command, body) -> None:
    build.view["state"] = "pausing"
    build.view["reason"] = "asked to"
    daemon.answers["POST", f"/v1/builds/k2/{command[0]}"] = 200, build.view
    outcome = dcctl(*command)
    assert outcome.code == 0
    assert outcome.out == "live k2p7abcd: pausing (asked to)\n"
    assert (daemon.requests[-1].json if daemon.requests[-1].body else None) == body
    assert json.loads(dcctl(*command, "--json").out) == build.view


def test_resume_sends_where_to_begin_and_where_to_stop(dcctl, daemon, build) -> None:
    build.view["state"] = "queued"
    daemon.answers["POST", "/v1/builds/k2/resume"] = (
        200,
        {"build": build.view, "kept": [], "rerun": []},
    )
    outcome = dcctl("resume", "k2", "--from", "ba-arch", "--pause-before", "create-iso")
    assert outcome.out == "live k2p7abcd: queued\n"
    (sent,) = (request for request in daemon.requests if request.method == "POST")
    assert sent.json == {"from": "ba-arch", "pause_before": "create-iso"}


def test_resume_with_a_manifest_tells_what_is_kept_and_what_runs_again(
    dcctl, daemon, build, manifest
) -> None:
    rerun = [{"name": "ba-arch", "reason": "argument size changed at line 41"}]
    answer = {"build": build.view, "kept": ["transfer-deb"], "rerun": rerun}
    daemon.answers["POST", "/v1/builds/k2/resume"] = 200, answer
    outcome = dcctl("resume", "k2", "--manifest", manifest)
    assert outcome.out.splitlines()[1:] == [
        "CHECKPOINT    ACTION  REASON",
        "transfer-deb  keep    unchanged",
        "ba-arch       run     argument size changed at line 41",
    ]
    # Parameters that are not given stay those of the submit: an empty object would drop them.
    assert "parameters" not in daemon.requests[-1].json
    dcctl("resume", "k2", "--manifest", manifest, "--set", "hostname=box")
    assert daemon.requests[-1].json["parameters"] == {"hostname": "box"}


def test_resume_refuses_parameters_that_would_have_no_effect(dcctl, daemon) -> None:
    outcome = dcctl("resume", "k2", "--set", "hostname=box")
    assert outcome.code == 2
    assert "--set needs --manifest" in outcome.err
    assert daemon.requests == []


def summaries(daemon, count: int) -> None:
    """Answer lists from `count` builds, newest first, as the API pages them."""

    def answer(request):
        before = int(request.query.get("before", count))
        numbers = range(before - 1, max(before - 1 - int(request.query["limit"]), -1), -1)
        builds = [
            {
                "id": f"b{number:04}",
                "name": "live",
                "state": "running",
                "reason": "",
                "submitted_at": "2025-01-01T12:00:00Z",
                "updated_at": "2025-01-01T12:00:00Z",
                "actor": {"uid": 0, "gid": 0, "pid": 1, "user": "root"},
                "priority": 0,
                "completed_checkpoints": 3,
                "total_checkpoints": 9,
            }
            for number in numbers
        ]
        full = len(numbers) == int(request.query["limit"])
        return 200, {"builds": builds, "next": numbers[-1] if full and builds else None}

    daemon.answers["GET", "/v1/builds"] = answer


@pytest.mark.parametrize(
    ("options", "count", "listed"),
    [([], 450, 20), (["--limit", "3"], 450, 3), (["--all"], 450, 450), (["--limit", "250"], 450, 250),
     (["--all"], 0, 0), (["--all"], 400, 400)],
)  # fmt: skip
def test_list_pages_until_it_has_what_was_asked_for(dcctl, daemon, options, count, listed) -> None:
    summaries(daemon, count)
    builds = json.loads(dcctl("list", "--json", *options).out)
    assert [build["id"] for build in builds] == [
        f"b{count - 1 - index:04}" for index in range(listed)
    ]


def test_list_is_a_table_and_filters_by_state(dcctl, daemon) -> None:
    summaries(daemon, 1)
    lines = dcctl("list", "--state", "running").out.splitlines()
    header = ["BUILD", "NAME", "STATE", "DONE", "TIME", "BY", "SUBMITTED", "REASON"]
    assert lines[0].split() == header
    assert lines[1].split()[:4] == ["b0000", "live", "running", "3/9"]
    assert daemon.requests[-1].query["state"] == "running"


def test_list_and_status_say_how_far_a_build_is(dcctl, daemon) -> None:
    how_far = {"fraction": 0.999, "elapsed_seconds": 41.0, "remaining_seconds": 84.9}
    build = daemon.build(iso=10.0)
    build.view |= {**how_far, "state": "running"}
    build.view["checkpoints"][0] |= {"state": "running", "attempts": 1, "elapsed_seconds": 65.0}
    shown = {**build.view, "completed_checkpoints": 0, "total_checkpoints": 1}
    daemon.answers["GET", "/v1/builds"] = 200, {"builds": [shown], "next": None}
    row = " ".join(dcctl("list").out.splitlines()[1].split())
    assert row.startswith("k2p7abcd live running 0/1 99% 0:41 / ~2:05 root 20")
    lines = dcctl("status", "k2").out.splitlines()
    assert lines[2] == "  99% done, time 0:41 / ~2:05 expected"
    assert lines[-1].split() == ["iso", "running", "1:05", "1", "about", "10", "s"]
    build.view |= {"remaining_seconds": None, "state": "paused"}
    assert dcctl("status", "k2").out.splitlines()[2] == "  99% done, time 0:41"


def test_events_are_an_object_a_line_through_all_pages(dcctl, build) -> None:
    outcome = dcctl("events", "k2", "--json")
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert events == build.events
    fields = {"position", "build", "sequence", "type", "version", "time", "actor", "data", "hash"}
    assert all(set(event) == fields for event in events)
    later = dcctl("events", "k2", "--json", "--after", str(events[2]["position"])).out
    assert [json.loads(line) for line in later.splitlines()] == build.events[3:]


def test_events_for_people_are_a_line_each(dcctl, build) -> None:
    lines = dcctl("events", "k2").out.splitlines()
    assert len(lines) == len(build.events)
    assert lines[0].endswith("BuildSubmitted         root      live, manifest /m.xml")
    assert lines[3].endswith("CheckpointCompleted    root      transfer-deb, attempt 1, 41 s")
    assert lines[4].endswith("CheckpointReused       root      ba-arch, from 7fa2wxyz")
    assert lines[7].endswith(
        "BuildFailed            root      boot-setup, grub-mkrescue exited with status 1"
    )


@pytest.mark.parametrize(("ok", "code", "said"), [(True, 0, ", intact"), (False, 1, "NOT intact")])
def test_events_verify_exits_by_the_verdict(dcctl, daemon, ok, code, said) -> None:
    answer = {"build": "k2", "events": 9, "ok": ok, "problems": [] if ok else ["event 4: hash"]}
    daemon.answers["GET", "/v1/builds/k2/events/verify"] = 200, answer
    outcome = dcctl("events", "k2", "--verify")
    assert outcome.code == code
    assert said in outcome.out
    assert ("event 4: hash" in outcome.out) is not ok
    assert json.loads(dcctl("events", "k2", "--verify", "--json").out) == answer


@pytest.mark.parametrize(
    ("arguments", "content"),
    [
        ([], b"b2\xff"),
        (["boot-setup"], b"b2\xff"),
        (["boot-setup", "--attempt", "1"], b"b1"),
        (["transfer-deb"], b"t1"),
    ],
)
def test_logs_prints_the_newest_attempt_byte_for_byte(
    daemon, build, arguments, content, capfdbinary
) -> None:
    from cli.main import main

    assert main(["logs", "--socket", daemon.socket, "k2", *arguments]) == 0
    assert capfdbinary.readouterr().out == content


def test_logs_reads_on_when_the_daemon_bounds_its_answers(dcctl, daemon, build) -> None:
    content = b"0123456789"

    def answer(request):
        offset = int(request.query["offset"])
        return 200, content[offset : offset + 4]

    daemon.answers["GET", "/v1/builds/k2/logs/boot-setup/2"] = answer
    assert dcctl("logs", "k2").out == "0123456789"


def test_logs_follows_until_the_attempt_has_ended(dcctl, daemon, build, monkeypatch) -> None:
    checkpoint = build.view["checkpoints"][2]
    checkpoint.update(state="running", attempts=2)
    steps = [b" more", b" end"]

    def grow(seconds: float) -> None:
        build.logs["boot-setup", 2] += steps.pop(0)
        if not steps:
            checkpoint["state"] = "failed"

    monkeypatch.setattr("cli.commands.logs.time.sleep", grow)
    build.logs["boot-setup", 2] = b"begin"
    assert dcctl("logs", "k2", "--follow").out == "begin more end"


def test_logs_json_lists_them(dcctl, build) -> None:
    logs = json.loads(dcctl("logs", "k2", "boot-setup", "--json").out)
    assert [(log["checkpoint"], log["attempt"]) for log in logs] == [
        ("boot-setup", 1),
        ("boot-setup", 2),
    ]


def test_a_log_that_is_not_there_is_not_found(dcctl, daemon, build) -> None:
    outcome = dcctl("logs", "k2", "create-iso")
    assert outcome.code == 7
    assert "no log of create-iso" in outcome.err
    assert "transfer-deb, boot-setup" in outcome.err
    build.logs.clear()
    assert "ba-arch reused the result of build 7fa2wxyz" in dcctl("logs", "k2").err
    assert "nothing has run yet" in dcctl("logs", "k2", "create-iso").err


def test_artifacts_json_is_what_scripts_depend_on(dcctl, build) -> None:
    assert json.loads(dcctl("artifacts", "k2", "--json").out) == [ISO]
    assert dcctl("artifacts", "k2").out.splitlines()[1].split()[2:] == [
        *("iso", "product", ISO["path"])
    ]
    build.view["artifacts"] = [ISO | {"evidence": True}]
    assert " evidence " in dcctl("artifacts", "k2").out


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_artifacts_verify_exits_by_the_verdict(dcctl, daemon, ok, code) -> None:
    check = {"name": "live.iso", "path": "/a", "ok": ok, "problem": "" if ok else "digest differs"}
    answer = {"artifacts": [check], "ok": ok}
    daemon.answers["POST", "/v1/builds/k2/artifacts/verify"] = 200, answer
    outcome = dcctl("artifacts", "k2", "--verify")
    assert outcome.code == code
    assert ("failed  digest differs" in outcome.out) is not ok
    assert json.loads(dcctl("artifacts", "k2", "--verify", "--json").out) == answer


def test_graph_prints_the_drawing(dcctl, daemon) -> None:
    daemon.answers["GET", "/v1/builds/k2/graph"] = lambda request: (
        200,
        request.query["format"] + "\n",
    )
    assert dcctl("graph", "k2").out == "mermaid\n"
    assert dcctl("graph", "k2", "--format", "dot").out == "dot\n"
    assert json.loads(dcctl("graph", "k2", "--json").out) == {
        "format": "mermaid",
        "text": "mermaid\n",
    }


DIAGNOSTICS = [
    {"severity": "error", "file": "/m.xml", "line": 41, "column": 7, "message": "unknown element <sofware>",
     "why": "A distro holds software.", "suggestion": "<software name='x'>\n</software>"},
    {"severity": "warning", "file": "/m.xml", "line": 50, "column": 0, "message": "no default", "why": "",
     "suggestion": ""},
    {"severity": "error", "file": "", "line": 0, "column": 0, "message": "empty", "why": "",
     "suggestion": ""},
]  # fmt: skip
AS_A_COMPILER = """\
/m.xml:41:7: error: unknown element <sofware>
  A distro holds software.
  <software name='x'>
  </software>
/m.xml:50: warning: no default
dcctl: error: empty
"""


def test_validate_prints_diagnostics_like_a_compiler(dcctl, daemon, manifest) -> None:
    answer = {"ok": False, "diagnostics": DIAGNOSTICS}
    daemon.answers["POST", "/v1/validate"] = 200, answer
    outcome = dcctl("validate", manifest)
    assert (outcome.code, outcome.out, outcome.err) == (8, AS_A_COMPILER, "")
    assert json.loads(dcctl("validate", manifest, "--json").out) == answer


def test_validate_says_so_when_all_is_well_and_warnings_are_no_error(
    dcctl, daemon, manifest
) -> None:
    daemon.answers["POST", "/v1/validate"] = 200, {"ok": True, "diagnostics": DIAGNOSTICS[1:2]}
    outcome = dcctl("validate", manifest)
    assert outcome.code == 0
    assert outcome.out == f"/m.xml:50: warning: no default\n{manifest}: valid\n"


@pytest.mark.parametrize("command", ["submit", "plan"])
def test_an_invalid_manifest_is_refused_with_its_diagnostics(
    dcctl, daemon, manifest, command
) -> None:
    problem = {
        "type": "urn:dcd:problem:invalid-manifest",
        "title": "the manifest has 2 errors",
        "detail": "the same, as text",
        "diagnostics": DIAGNOSTICS,
    }
    path = {"submit": "/v1/builds", "plan": "/v1/plan"}[command]
    daemon.answers["POST", path] = 422, problem
    outcome = dcctl(command, manifest)
    assert (outcome.code, outcome.out, outcome.err) == (8, "", AS_A_COMPILER)


def test_plan_tells_what_runs_why_and_how_long(dcctl, daemon, manifest) -> None:
    checkpoints = [
        {"name": "transfer-deb", "description": "", "action": "reuse", "reason": "key 3f9c from build k2p7",
         "key": "k", "estimate_seconds": 45.0},
        {"name": "create-iso", "description": "", "action": "run", "reason": "argument changed at line 41",
         "key": "k", "estimate_seconds": 105.0, "variances": [
            {"reason": "xfs", "certain": True}, {"reason": "a script", "certain": False}]},
    ]  # fmt: skip
    answer = {"name": "live", "checkpoints": checkpoints}
    answer |= {
        "source_date_epoch": 1767225600,
        "time_origin": "none",
        "choice": "no <execution>: ISO",
    }
    daemon.answers["POST", "/v1/plan"] = 200, answer
    assert dcctl("plan", manifest).out.splitlines() == [
        "no <execution>: ISO",
        "",
        "CHECKPOINT    ACTION  ESTIMATE  REASON",
        "transfer-deb  reuse             key 3f9c from build k2p7",
        "create-iso    run       1m 45s  argument changed at line 41",
        "",
        "live: 1 of 2 checkpoints to run, about 1m 45s",
        "files dated 2026-01-01T00:00:00Z, a fixed time, since the build has no date",
        "not reproducible: create-iso: xfs",
        "perhaps not reproducible: create-iso: a script",
    ]
    assert json.loads(dcctl("plan", manifest, "--json").out) == answer


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warning", 0), ("missing", 11)])
def test_doctor_exits_11_when_something_required_is_missing(dcctl, daemon, status, code) -> None:
    check = {
        "name": "xorriso",
        "status": status,
        "value": "none",
        "remedy": "apt-get install xorriso",
    }
    daemon.answers["GET", "/v1/doctor"] = 200, {"checks": [check]}
    outcome = dcctl("doctor")
    assert outcome.code == code
    assert ("xorriso: apt-get install xorriso" in outcome.out) == (status != "ok")
    assert json.loads(dcctl("doctor", "--json").out) == {"checks": [check]}


def test_version_tells_both(dcctl, daemon) -> None:
    version = {
        "version": "9.8",
        "api": "v1",
        "pid": 811,
        "state_dir": "/s",
        "started_at": "2025-01-01T12:00:00Z",
    }
    daemon.answers["GET", "/v1/version"] = 200, version
    outcome = dcctl("version")
    assert outcome.code == 0
    assert outcome.out.startswith("dcctl ")
    assert "dcd 9.8, API v1" in outcome.out
    assert json.loads(dcctl("version", "--json").out)["daemon"] == version


def test_version_tells_its_own_when_no_daemon_answers(dcctl, daemon) -> None:
    daemon.kill()
    outcome = dcctl("version")
    assert outcome.code == 9
    assert outcome.out.startswith("dcctl ")
    assert "cannot reach the daemon" in outcome.err
    outcome = dcctl("version", "--json")
    assert (outcome.code, json.loads(outcome.out)["daemon"]) == (9, None)


def test_logs_of_a_reused_checkpoint_are_with_the_build_that_made_it(dcctl, build) -> None:
    outcome = dcctl("logs", "k2", "ba-arch")
    assert outcome.code == 7
    assert "ba-arch reused the result of build 7fa2wxyz" in outcome.err
    assert "dcctl logs 7fa2wxyz ba-arch" in outcome.err
