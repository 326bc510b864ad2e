"""The commands that look after builds and the state directory: what they ask and what they print."""

import base64
import hashlib
import json
import stat

import pytest

LAYER = {
    "key": "4dcc3834664c" + "0" * 52,
    "build": "k2p7abcd",
    "checkpoint": "transfer-deb",
    "size_bytes": 3 * 1024**2,
    "reason": "least recently used",
}
COLLECTED = {
    "layers": [LAYER],
    "blobs": ["a" * 64],
    "builds": [],
    "freed_bytes": 3 * 1024**2,
    "kept_bytes": 1024,
    "packages": 2,
}


def test_rm_prints_the_state(dcctl, daemon) -> None:
    view = daemon.build().view
    view["state"] = "completed"
    removed = {**view, "reason": "removed by root at 2026-10-03 12:00:00 UTC"}
    daemon.answers["DELETE", "/v1/builds/k2p7abcd"] = 200, removed
    said = "live k2p7abcd: completed (removed by root at 2026-10-03 12:00:00 UTC)\n"
    assert dcctl("rm", "k2").out == said
    view = removed
    assert json.loads(dcctl("rm", "k2", "--json").out) == view


def test_rm_takes_several_and_goes_on_after_one_that_cannot_be_removed(dcctl, daemon) -> None:
    for identity in ("aaa", "bbb"):
        view = daemon.build(identity).view
        view["state"] = "completed"
        daemon.answers["DELETE", f"/v1/builds/{identity}"] = 200, view
    outcome = dcctl("rm", "aaa", "nope", "bbb")
    assert outcome.code == 7
    assert outcome.out == "live aaa: completed\nlive bbb: completed\n"
    assert "there is no build nope" in outcome.err


@pytest.mark.parametrize(
    ("state", "options", "requests"),
    [
        ("completed", [], ["DELETE"]),
        ("cancelled", [], ["DELETE"]),
        ("failed", [], ["POST", "DELETE"]),
        ("failed", ["--cancel"], ["POST", "DELETE"]),
        ("running", ["--cancel"], ["POST", "DELETE"]),
        ("paused", ["--cancel"], ["POST", "DELETE"]),
        ("running", [], []),
        ("queued", [], []),
        ("paused", [], []),
    ],
)
def test_rm_cancels_what_has_failed_and_what_it_is_asked_to(
    dcctl, daemon, monkeypatch, state, options, requests
) -> None:
    view = daemon.build().view
    view["state"] = state
    looks = []

    def look(request):
        looks.append(request)
        if requests and view["state"] == "cancelling" and len(looks) > 2:
            view["state"] = "cancelled"
        return 200, view

    def cancel(request):
        view["state"] = "cancelling"
        return 200, view

    monkeypatch.setattr("cli.commands.rm.POLL_SECONDS", 0.0)
    daemon.answers["GET", "/v1/builds/k2"] = daemon.answers["GET", "/v1/builds/k2p7abcd"] = look
    daemon.answers["POST", "/v1/builds/k2p7abcd/cancel"] = cancel
    daemon.answers["DELETE", "/v1/builds/k2p7abcd"] = 200, view
    outcome = dcctl("rm", "k2", *options)
    assert [item.method for item in daemon.requests if item.method != "GET"] == requests
    if requests:
        assert outcome.code == 0
    else:
        assert outcome.code == 6
        assert "dcctl rm --cancel k2p7abcd" in outcome.err


def test_list_can_print_the_ids_alone(dcctl, daemon) -> None:
    builds = [{"id": "aaa"}, {"id": "bbb"}]
    daemon.answers["GET", "/v1/builds"] = 200, {"builds": builds, "next": None}
    assert dcctl("list", "--ids").out == "aaa\nbbb\n"


def test_retry_prints_the_state(dcctl, daemon) -> None:
    view = daemon.build().view
    daemon.answers["POST", "/v1/builds/k2/retry"] = 200, view
    assert dcctl("retry", "k2").out == "live k2p7abcd: queued\n"


def test_checkpoints_has_the_columns_of_the_original(dcctl, daemon) -> None:
    found = [
        {"name": "ba-init", "description": "Copy files", "state": "completed", "resumable": True},
        {"name": "ba-arch", "description": "Archive", "state": "pending", "resumable": False},
    ]
    daemon.answers["GET", "/v1/builds/k2/checkpoints"] = 200, {"checkpoints": found}
    assert dcctl("checkpoints", "k2").out.splitlines() == [
        "CHECKPOINT  RESUMABLE  DESCRIPTION",
        "ba-init     yes        Copy files",
        "ba-arch     no         Archive",
    ]
    assert json.loads(dcctl("checkpoints", "k2", "--json").out) == found


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ([], {"max_bytes": None, "dry_run": False}),
        (["--max-bytes", "0"], {"max_bytes": 0, "dry_run": False}),
        (["--max-bytes", "20G"], {"max_bytes": 20 * 1024**3, "dry_run": False}),
        (["--max-bytes", "1MiB", "--dry-run"], {"max_bytes": 1024**2, "dry_run": True}),
    ],
)
def test_gc_sends_the_limit_in_bytes(dcctl, daemon, options, sent) -> None:
    daemon.answers["POST", "/v1/gc"] = 200, COLLECTED
    outcome = dcctl("gc", *options)
    assert daemon.requests[-1].json == sent
    assert outcome.out.splitlines()[1] == (
        "4dcc3834664c  k2p7abcd  transfer-deb  3.0 MiB  least recently used"
    )
    verb = "would remove" if sent["dry_run"] else "removed"
    assert (
        f"{verb} 1 layer, 1 captured input, 2 packages: 3.0 MiB; the remaining layers use 1.0 KiB"
        in (outcome.out)
    )


@pytest.mark.parametrize("size", ["much", "-1", "1.5G", "1X"])
def test_gc_takes_sizes_only(dcctl, daemon, size) -> None:
    outcome = dcctl("gc", f"--max-bytes={size}")
    assert outcome.code == 2
    assert "is not a size" in outcome.err


def test_df_shows_builds_then_sums(dcctl, daemon) -> None:
    build = {"build": "k2p7abcd", "name": "live", "state": "failed", "layers": 2, "layer_bytes": 2048,
             "pinned_bytes": 1024, "workspace_bytes": 512, "artifact_bytes": 0, "log_bytes": 10}  # fmt: skip
    usage = {"state_dir": "/var/lib/dcd", "total_bytes": 2**40, "free_bytes": 2**39,
             "layers_max_bytes": 2**30, "layer_bytes": 2048, "pinned_bytes": 1024, "workspace_bytes": 512,
             "retired_bytes": 0, "blob_bytes": 7, "artifact_bytes": 0, "log_bytes": 10,
             "event_log_bytes": 4096, "package_bytes": 3072, "captured_bytes": 2048,
             "packages_max_bytes": 2**33,
             "builds": [build]}  # fmt: skip
    daemon.answers["GET", "/v1/df"] = 200, usage
    lines = dcctl("df").out.splitlines()
    assert lines[0].split() == [
        *("BUILD", "NAME", "STATE", "LAYERS", "SIZE", "PINNED", "WORK", "ARTIFACTS", "LOGS")
    ]
    assert lines[1].split() == [
        *("k2p7abcd", "live", "failed", "2", "2.0", "KiB", "1.0", "KiB", "512", "B", "10", "B")
    ]
    assert "2.0 KiB  layers, of which 1.0 KiB pinned, at most 1.0 GiB (layers_max_bytes)" in lines
    assert (
        "3.0 KiB  downloaded packages, of which builds keep 2.0 KiB, at most 8.0 GiB (packages_max_bytes)"
        in lines
    )
    assert lines[-1] == "512.0 GiB of 1.0 TiB free in /var/lib/dcd"
    assert json.loads(dcctl("df", "--json").out) == usage


def test_backup_refuses_what_did_not_arrive_whole(dcctl, daemon, tmp_path) -> None:
    """The fake daemon sends no digest, as one that broke off."""
    daemon.answers["GET", "/v1/backup"] = 200, b"half a log"
    outcome = dcctl("backup", str(tmp_path / "log.db"))
    assert outcome.code == 1
    assert "is incomplete or damaged" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_backup_writes_for_its_user_alone_and_never_over_a_file(
    dcctl, daemon, tmp_path, monkeypatch
) -> None:
    from cli.commands import backup

    content = b"a log"
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    daemon.answers["GET", "/v1/backup"] = 200, content

    class WithDigest:
        def __init__(self, answer):
            self.headers = {"Repr-Digest": f"sha-256=:{digest}:"}
            self.read1 = answer.read1

    save = backup._save
    monkeypatch.setattr(backup, "_save", lambda answer, path: save(WithDigest(answer), path))
    target = tmp_path / "log.db"
    assert dcctl("backup", str(target)).code == 0
    assert target.read_bytes() == content
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    outcome = dcctl("backup", str(target))
    assert (outcome.code, "exists already" in outcome.err) == (2, True)


def test_shell_says_what_is_missing_to_run_it(dcctl, daemon, monkeypatch) -> None:
    view = {"build": "k2", "place": "after one", "root": "/r", "marker": "m", "request": {}}
    daemon.answers["POST", "/v1/builds/k2/shell"] = 200, view
    monkeypatch.setattr("cli.commands.shell.NAMESPACES", ("no-such-program",))
    outcome = dcctl("shell", "k2", "--at", "one", "--", "ls", "--all")
    assert daemon.requests[-1].json == {"at": "one"}
    assert outcome.code == 11
    assert "cannot run no-such-program" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "at", "command"),
    [
        (["k2"], None, []),
        (["k2", "--", "ls", "-l"], None, ["ls", "-l"]),
        (["k2", "--at", "one", "--", "ls", "--at", "x", "--", "y"], "one", ["ls", "--at", "x", "--", "y"]),
        (["--at", "one", "k2"], "one", []),
    ],
)  # fmt: skip
def test_what_stands_after_the_dashes_is_the_shells_command(arguments, at, command) -> None:
    from cli.main import build_parser

    args = build_parser().parse_args(["shell", *arguments])
    assert (args.build, args.at, args.command) == ("k2", at, command)


SETTINGS = [
    {"name": "max_running_builds", "value": 4, "origin": "/etc/dcd/dcd.toml:3", "unit": "",
     "reloads": True, "waiting": None},
    {"name": "layer_backend", "value": "overlay", "origin": "default", "unit": "", "reloads": False,
     "waiting": {"value": "copy", "origin": "/etc/dcd/dcd.toml:4"}},
    {"name": "include_map", "value": {"/a/": "/b"}, "origin": "property config/include_map", "unit": "",
     "reloads": True, "waiting": None},
]  # fmt: skip


def test_config_shows_values_as_in_the_file_and_what_a_restart_would_bring(dcctl, daemon) -> None:
    daemon.answers["GET", "/v1/config"] = 200, {"settings": SETTINGS}
    assert dcctl("config").out.splitlines() == [
        "SETTING             VALUE             FROM",
        "max_running_builds  4                 /etc/dcd/dcd.toml:3",
        'layer_backend       "overlay"         default',
        'include_map         { "/a/" = "/b" }  property config/include_map',
        "",
        "After a restart:",
        '  layer_backend = "copy"  (/etc/dcd/dcd.toml:4)',
    ]
    assert json.loads(dcctl("config", "--json").out) == {"settings": SETTINGS}


def test_config_reload_says_what_changed_and_what_waits(dcctl, daemon) -> None:
    daemon.answers["POST", "/v1/reload"] = 200, {"changed": [], "waiting": ["socket"]}
    assert dcctl("config", "--reload").out == "changed: nothing\nwait for a restart: socket\n"


def old_builds(daemon, **states: str) -> None:
    """Builds in these states, as a list and each; the older ones have not changed since January."""
    summaries = []
    for identity, state in states.items():
        view = daemon.build(identity).view
        view["state"] = state
        view["updated_at"] = (
            "2026-01-01T00:00:00Z" if identity.startswith("old") else "2999-01-01T00:00:00Z"
        )
        daemon.answers["DELETE", f"/v1/builds/{identity}"] = 200, view
        daemon.answers["POST", f"/v1/builds/{identity}/cancel"] = (
            200,
            {**view, "state": "cancelled"},
        )
        summaries.append(view)

    def listed(request):
        wanted = request.query.get("state", "").split(",")
        return 200, {
            "builds": [each for each in summaries if each["state"] in wanted],
            "next": None,
        }

    daemon.answers["GET", "/v1/builds"] = listed


def removed(daemon) -> list[str]:
    return [each.path.rpartition("/")[2] for each in daemon.requests if each.method == "DELETE"]


def test_rm_chooses_by_state_and_age(dcctl, daemon) -> None:
    old_builds(daemon, olda="failed", newb="failed", oldc="completed", oldd="running")
    assert dcctl("rm", "--failed", "--older-than", "7d").code == 0
    assert removed(daemon) == ["olda"]


def test_rm_shows_what_it_would_remove(dcctl, daemon) -> None:
    old_builds(daemon, olda="failed", oldb="completed")
    outcome = dcctl("rm", "--failed", "--completed", "--dry-run")
    assert outcome.out == "live olda: failed\nlive oldb: completed\n"
    assert removed(daemon) == []


def test_rm_leaves_the_builds_of_others(dcctl, daemon, monkeypatch) -> None:
    old_builds(daemon, olda="failed")
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    assert dcctl("rm", "--failed").code == 0
    assert removed(daemon) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rm"], "nothing to remove is named"),
        (["rm", "k2p7", "--older-than", "7d"], "--older-than and --superseded choose among states"),
        (["rm", "--failed", "--older-than", "7 days"], "is not a duration such as 12h"),
        (["retry", "a", "b", "--follow"], "several builds cannot be followed"),
    ],
)
def test_what_names_no_builds_is_a_usage_error(dcctl, daemon, arguments, message) -> None:
    refused = dcctl(*arguments)
    assert refused.code == 2
    assert message in refused.err
    assert removed(daemon) == []


@pytest.mark.parametrize("command", ["cancel", "retry"])
def test_several_builds_are_tried_and_the_first_error_counts(dcctl, daemon, command) -> None:
    for identity in ("aaa", "bbb"):
        view = daemon.build(identity).view
        daemon.answers["POST", f"/v1/builds/{identity}/{command}"] = 200, view
    outcome = dcctl(command, "aaa", "nope", "bbb")
    assert outcome.code == 7
    assert [line.split(":")[0] for line in outcome.out.splitlines()] == ["live aaa", "live bbb"]
    assert "nope" in outcome.err
