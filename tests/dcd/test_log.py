"""The daemon's log: three forms, one content; nobody can forge a line."""

import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from dcd import log as daemon_log
from dcd.log import chosen_form, configure, journal_datagram, journal_fields

logger = structlog.get_logger()


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level


def parse(datagram: bytes) -> dict[str, str]:
    """A reader of the journal's protocol, by its specification."""
    fields = {}
    while datagram:
        name, datagram = datagram.split(b"\n", 1)
        size = int.from_bytes(datagram[:8], "little")
        fields[name.decode()] = datagram[8 : 8 + size].decode("utf-8", "surrogateescape")
        assert datagram[8 + size : 9 + size] == b"\n"
        datagram = datagram[9 + size :]
    return fields


def test_json_is_one_object_a_line() -> None:
    stream = io.StringIO()
    configure("json", "info", stream)
    logger.info("checkpoint started", build="k2p7", checkpoint="transfer-deb")
    logger.debug("not shown")
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {
        "event": "checkpoint started",
        "level": "info",
        "build": "k2p7",
        "checkpoint": "transfer-deb",
    }


@pytest.mark.parametrize("form", ["console", "json", "journald"])
def test_a_value_cannot_forge_a_line_or_move_the_cursor(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_log, "JOURNAL_SOCKET", tmp_path / "absent")
    stream = io.StringIO()
    configure(form, "info", stream)
    logger.info("build submitted", name="x\n2026-01-01T00:00:00Z [error] forged\x1b[2J\u202e")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert "\u202e" not in stream.getvalue()


def test_the_standard_librarys_loggers_come_out_in_the_same_form() -> None:
    stream = io.StringIO()
    configure("json", "info", stream)
    logging.getLogger("uvicorn.error").error("lost %s", "connection")
    logging.getLogger("alembic").info("of no interest")
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["logger"], entry["level"]) == (
        "lost connection",
        "uvicorn.error",
        "error",
    )


def test_a_reload_changes_the_level_of_loggers_that_exist() -> None:
    stream = io.StringIO()
    configure("json", "warning", stream)
    bound = logger.bind(build="k2p7")
    bound.info("before")
    configure("json", "info", stream)
    logger.bind(build="k2p7").info("after")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["after"]


def test_no_form_prints_local_variables_with_a_traceback() -> None:
    for form in ("console", "json"):
        stream = io.StringIO()
        configure(form, "info", stream)
        password = "s3cret" + "-value"
        try:
            raise RuntimeError(len(password))
        except RuntimeError:
            logger.exception("it broke")
        assert "RuntimeError" in stream.getvalue()
        assert "s3cret-value" not in stream.getvalue()


def test_the_journal_gets_build_and_checkpoint_as_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.settimeout(10)
        monkeypatch.setattr(daemon_log, "JOURNAL_SOCKET", tmp_path / "journal")
        configure("journald", "info", stream)
        logger.warning("checkpoint failed", build="k2p7", checkpoint="create-iso")
        fields = parse(journal.recv(65536))
    assert fields == {
        "MESSAGE": "checkpoint failed build='k2p7' checkpoint='create-iso'",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "dcd",
        "DCD_BUILD": "k2p7",
        "DCD_CHECKPOINT": "create-iso",
    }
    assert stream.getvalue() == ""


def test_without_a_journal_the_line_goes_to_standard_error_with_its_priority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_log, "JOURNAL_SOCKET", tmp_path / "absent")
    stream = io.StringIO()
    configure("journald", "info", stream)
    logger.error("disk full", free_bytes=3)
    assert stream.getvalue() == "<3>disk full free_bytes='3'\n"


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text()))
def test_any_field_survives_the_journals_protocol(fields: dict[str, str]) -> None:
    fields = {name: value.encode("utf-8", "replace").decode() for name, value in fields.items()}
    assert parse(journal_datagram(fields)) == fields


def test_an_enormous_value_is_cut() -> None:
    fields = journal_fields({"event": "x", "level": "info", "error": "y" * 10_000_000})
    assert len(journal_datagram(fields)) < 200_000


def test_auto_is_the_journal_only_where_standard_error_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        status = os.fstat(stream.fileno())
        here = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert chosen_form(stream, here) == "journald"
        assert chosen_form(stream, {"JOURNAL_STREAM": "1:2"}) == "json"
        assert chosen_form(stream, {}) == "json"
    assert chosen_form(io.StringIO(), {}) == "json"
    leader, follower = os.openpty()
    with os.fdopen(leader), os.fdopen(follower, "w") as terminal:
        assert chosen_form(terminal, {}) == "console"
