"""`dcctl build --watch` where the manifest is refused: what it waits for."""

import argparse
from pathlib import Path

import pytest

from cli.client import ClientError
from cli.commands import build
from cli.exit_codes import ExitCode


@pytest.mark.parametrize("begun", [None, "not yet what it has to be"])
def test_a_file_that_could_not_be_read_is_waited_for(
    begun: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, tried = tmp_path / "setup.sh", []
    if begun:
        script.write_text(begun)

    def submit(args: argparse.Namespace) -> None:
        tried.append(args)
        if len(tried) > 1:
            raise KeyboardInterrupt
        raise ClientError("invalid-manifest", "refused", extra={"missing": [{"path": str(script)}]})

    monkeypatch.setattr(build, "_continued", lambda args: None)
    monkeypatch.setattr(build, "_submitted", submit)
    monkeypatch.setattr(build.time, "sleep", lambda seconds: script.write_text("echo set up"))
    args = argparse.Namespace(manifest=str(tmp_path / "m.xml"), json=False)
    assert build._watched(args) == ExitCode.INTERRUPTED
    assert len(tried) == 2


def test_a_refusal_names_the_files_that_it_is_about(tmp_path: Path) -> None:
    from cli.capture import complete

    wanted = [{"path": str(tmp_path / "setup.sh"), "kind": "file", "optional": False, "line": 3}]

    def ask(body: object) -> object:
        raise ClientError("inputs-missing", "files", extra={"missing": wanted})

    with pytest.raises(ClientError) as refused:
        complete({"manifest": {"path": str(tmp_path / "m.xml")}}, ask, lambda *content: None)
    assert refused.value.extra["missing"] == wanted
