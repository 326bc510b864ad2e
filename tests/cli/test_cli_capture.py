"""Manifests and the files that they name: read by dcctl, with its rights, sent as blobs."""

import hashlib
import json
import os
import socket
from pathlib import Path

import pytest

import cli.capture


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "live.xml"
    path.write_text("<dc/>")
    return path


def wants(daemon, *missing: dict) -> None:
    """Let the daemon want files, one list a round, before it accepts a submit."""
    view = daemon.build().view

    def submit(request):
        files = request.json.get("files", {})
        lacking = [item for item in missing if item["path"] not in files]
        if not lacking:
            return 201, view
        first = [item for item in lacking if item["turn"] == lacking[0]["turn"]]
        return 422, {"type": "urn:dcd:problem:inputs-missing", "title": "files", "missing": first}

    daemon.answers["POST", "/v1/builds"] = submit


def item(path: Path, *, kind="file", optional=False, line=12, turn=1) -> dict:
    return {"path": str(path), "kind": kind, "optional": optional, "line": line, "turn": turn}


def submitted(daemon) -> dict:
    return [request for request in daemon.requests if request.path == "/v1/builds"][-1].json


def test_the_manifest_goes_out_as_text_with_its_absolute_path(
    dcctl, daemon, manifest, monkeypatch
) -> None:
    wants(daemon)
    monkeypatch.chdir(manifest.parent)
    manifest.write_text("\ufeff<dc>é</dc>", encoding="utf-8")
    assert dcctl("submit", "live.xml").out == "k2p7abcd\n"
    assert submitted(daemon)["manifest"] == {"path": str(manifest), "text": "<dc>é</dc>"}


def test_files_are_uploaded_once_and_named_by_digest_and_mode(
    dcctl, daemon, manifest, tmp_path
) -> None:
    script, included = tmp_path / "a script", tmp_path / "part.xml"
    script.write_bytes(b"#!/bin/sh\n" * 30_000)  # more than one chunk
    script.chmod(0o750)
    included.write_bytes(b"")
    included.chmod(0o644)
    wants(daemon, item(included, kind="include"), item(script, turn=2))
    assert dcctl("submit", str(manifest)).code == 0
    content = script.read_bytes()
    assert submitted(daemon)["files"] == {
        str(included): {"sha256": sha256(b""), "mode": 0o644},
        str(script): {"sha256": sha256(content), "mode": 0o750},
    }
    assert daemon.blobs == {sha256(content): content, sha256(b""): b""}
    assert [request.method for request in daemon.requests].count("PUT") == 2


def test_an_optional_file_may_be_absent(dcctl, daemon, manifest, tmp_path) -> None:
    wants(daemon, item(tmp_path / "absent.xml", kind="include", optional=True))
    assert dcctl("submit", str(manifest)).code == 0
    assert submitted(daemon)["files"] == {str(tmp_path / "absent.xml"): None}


def test_an_include_that_does_not_exist_is_for_the_daemon_to_report(
    dcctl, daemon, manifest, tmp_path
) -> None:
    """It knows the directories that it has tried."""
    wants(daemon, item(tmp_path / "absent.xml", kind="include"))
    assert dcctl("submit", str(manifest)).code == 0
    assert submitted(daemon)["files"] == {str(tmp_path / "absent.xml"): None}


@pytest.mark.parametrize("optional", [True, False])
def test_all_unreadable_files_are_told_at_once_with_the_manifests_line(
    dcctl, daemon, manifest, tmp_path, optional
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    missing = [item(tmp_path, line=3, optional=optional)]
    missing += [item(tmp_path / name, line=4) for name in ("fifo", "socket")]
    if not optional:
        missing.append(item(tmp_path / "absent", line=5))
    wants(daemon, *missing)
    outcome = dcctl("submit", str(manifest))
    assert outcome.code == 8
    assert outcome.out == ""
    assert f"{manifest}:3: error: cannot read {tmp_path}: it is a directory\n" in outcome.err
    for name in ("fifo", "socket"):
        fault = f"{manifest}:4: error: cannot read {tmp_path}/{name}: it is not a regular file\n"
        assert fault in outcome.err
    absent = f"{manifest}:5: error: cannot read {tmp_path}/absent: No such file or directory\n"
    assert (absent in outcome.err) is not optional
    assert daemon.blobs == {}


def test_files_are_read_with_the_rights_of_who_runs_dcctl(dcctl, daemon) -> None:
    directory = daemon.path.parent  # which others may enter, unlike tmp_path
    manifest, secret = directory / "live.xml", directory / "secret"
    manifest.write_text("<dc/>")
    secret.write_text("s")
    secret.chmod(0o000)
    wants(daemon, item(secret))
    daemon.path.chmod(0o666)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        outcome = dcctl("submit", str(manifest))
    finally:
        if was_root:
            os.seteuid(0)
    assert outcome.code == 8
    assert f"cannot read {secret}: Permission denied" in outcome.err
    assert daemon.blobs == {}


def test_validate_reports_unreadable_files_as_diagnostics(
    dcctl, daemon, manifest, tmp_path
) -> None:
    gone = {"path": str(tmp_path / "gone"), "kind": "file", "optional": False, "line": 7}
    problem = {"type": "urn:dcd:problem:inputs-missing", "title": "files", "missing": [gone]}
    daemon.answers["POST", "/v1/validate"] = 422, problem
    outcome = dcctl("validate", str(manifest), "--json")
    assert outcome.code == 8
    answer = json.loads(outcome.out)
    assert not answer["ok"]
    assert answer["diagnostics"][0]["line"] == 7
    assert answer["diagnostics"][0]["file"] == str(manifest)


def test_a_file_is_told_where_the_included_part_names_it(dcctl, daemon, manifest, tmp_path) -> None:
    wants(daemon, {**item(tmp_path / "gone"), "file": "/part.xml"})
    assert "/part.xml:12: error:" in dcctl("submit", str(manifest)).err


def test_files_that_include_each_other_for_ever_end(dcctl, daemon, manifest, tmp_path) -> None:
    parts = [tmp_path / f"{number}.xml" for number in range(cli.capture.ROUNDS + 1)]
    for part in parts:
        part.touch()
    wants(daemon, *(item(part, turn=number) for number, part in enumerate(parts)))
    outcome = dcctl("submit", str(manifest))
    assert outcome.code == 8
    assert "include each other" in outcome.err


def test_a_daemon_that_asks_twice_for_the_same_is_stopped(dcctl, daemon, manifest) -> None:
    problem = {
        "type": "urn:dcd:problem:inputs-missing",
        "title": "files",
        "missing": [item(manifest)],
    }
    daemon.answers["POST", "/v1/builds"] = 422, problem
    outcome = dcctl("submit", str(manifest))
    assert outcome.code == 1
    assert "requests files again" in outcome.err


def test_a_file_that_changes_while_it_is_sent_is_refused(daemon, tmp_path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"before")

    def change_first(*arguments) -> None:
        path.write_bytes(b"BEFORE")
        cli.capture.upload(daemon.socket, *arguments)

    with pytest.raises(cli.capture.ClientError, match="digest differs"):
        cli.capture._capture_one(change_first, str(path), "file")
    assert daemon.blobs == {}

    def truncate_first(*arguments) -> None:
        path.write_bytes(b"")
        cli.capture.upload(daemon.socket, *arguments)

    with pytest.raises(cli.capture.ClientError, match="became shorter"):
        cli.capture._capture_one(truncate_first, str(path), "file")


def test_a_manifest_that_is_not_there_is_told(dcctl, tmp_path) -> None:
    outcome = dcctl("submit", str(tmp_path / "no.xml"))
    assert outcome.code == 8
    assert "No such file or directory" in outcome.err


def test_a_manifest_that_is_not_utf8_is_told_with_its_line(dcctl, manifest) -> None:
    manifest.write_bytes(b"<dc>\n\xe9</dc>")
    outcome = dcctl("validate", str(manifest))
    assert outcome.code == 8
    assert f"{manifest}:2: error: the manifest is not UTF-8\n" in outcome.out


def test_a_manifest_over_the_limit_is_not_even_sent(dcctl, daemon, manifest) -> None:
    manifest.write_bytes(b" " * (1024 * 1024 + 1))
    outcome = dcctl("submit", str(manifest))
    assert outcome.code == 8
    assert "larger than 1 MiB" in outcome.err
    assert daemon.requests == []


@pytest.mark.parametrize(
    ("option", "variable", "sent"),
    [(None, None, None), (None, "", None), (None, "1767225600", 1767225600), ("7", "8", 7)],
)
def test_the_time_of_a_build_is_that_of_the_option_or_the_variable(
    dcctl, daemon, tmp_path, monkeypatch, option, variable, sent
) -> None:
    (tmp_path / "m.xml").write_text("<dc/>")
    daemon.answers["POST", "/v1/builds"] = 201, daemon.build().view
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    if variable is not None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", variable)
    given = [] if option is None else ["--source-date-epoch", option]
    assert dcctl("submit", str(tmp_path / "m.xml"), *given).code == 0
    assert daemon.requests[-1].json.get("source_date_epoch") == sent


def test_a_variable_that_is_no_time_is_a_usage_error(dcctl, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    outcome = dcctl("submit", str(tmp_path / "m.xml"))
    assert outcome.code == 2
    assert "--source-date-epoch: 'soon' is not a time in seconds since 1970" in outcome.err
