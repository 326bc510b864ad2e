"""dcctl reproduce: the steps, the exit codes, and what is said about the first difference."""

import json
from pathlib import Path
from typing import Any

import pytest

from statemachine.events import BuildCompleted, BuildFailed, BuildStarted
from statemachine.results import ErrorInfo

FIRST, SECOND = "k2p7abcd", "zz9twice"


def comparison(**changes: Any) -> dict[str, Any]:
    """The daemon's answer for identical builds."""
    return {
        "first": FIRST,
        "second": SECOND,
        "identical": True,
        "checkpoint": None,
        "files": [],
        "different_files": 0,
        "example": [],
        "unknown": "",
        "changed": [],
        "varied": ["the time zone (TZ=<+14>-14)", "the number of processors (1)"],
        "checkpoints": [
            {"name": "transfer", "first_key": "a", "second_key": "b", "first_content": "c",
             "second_content": "c", "identical": True}
        ],
        "products": [{"name": "live.iso", "first_sha256": "d" * 64, "second_sha256": "d" * 64}],
    } | changes  # fmt: skip


def different(*, example: tuple[str, ...] = ()) -> dict[str, Any]:
    return comparison(
        identical=False,
        checkpoint="transfer",
        files=[
            {"path": "pkg_image/etc/stamp", "kinds": ["content", "mode"],
             "first": {"sha256": "1" * 64, "mode": "644"}, "second": {"sha256": "2" * 64, "mode": "600"}}
        ],
        different_files=3,
        example=list(example),
        changed=["transfer: repository bookworm changed"],
        products=[{"name": "live.iso", "first_sha256": "d" * 64, "second_sha256": "e" * 64}],
    )  # fmt: skip


@pytest.fixture
def builds(daemon: Any) -> Any:
    """A completed build, and what the daemon answers when it is repeated."""
    first = daemon.build(FIRST)
    first.tell(BuildStarted(), BuildCompleted())
    second = daemon.build(SECOND)
    second.view["reproduces"] = FIRST
    second.tell(BuildStarted(), BuildCompleted())
    daemon.answers["POST", f"/v1/builds/{FIRST}/reproduce"] = 201, second.view
    daemon.answers["GET", f"/v1/builds/{SECOND}/comparison"] = 200, comparison()
    daemon.answers["DELETE", f"/v1/builds/{SECOND}"] = 200, second.view
    return daemon


def sent(daemon: Any, method: str) -> list[str]:
    return [each.path for each in daemon.requests if each.method == method]


def test_identical_builds_exit_0_and_the_second_is_removed(dcctl: Any, builds: Any) -> None:
    outcome = dcctl("reproduce", "k2p7")
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        f"identical: build {FIRST} and its repetition {SECOND} (1 product, 1 checkpoint)",
        "",
        "varied: the time zone (TZ=<+14>-14), the number of processors (1)",
    ]
    assert f"to continue after an interruption: dcctl reproduce {SECOND}" in outcome.err
    assert sent(builds, "DELETE") == [f"/v1/builds/{SECOND}"]


def test_an_identical_build_can_be_kept(dcctl: Any, builds: Any) -> None:
    assert dcctl("reproduce", FIRST, "--keep").code == 0
    assert sent(builds, "DELETE") == []


def test_different_builds_exit_12_and_the_first_difference_is_named(
    dcctl: Any, builds: Any
) -> None:
    builds.answers["GET", f"/v1/builds/{SECOND}/comparison"] = 200, different()
    outcome = dcctl("reproduce", FIRST)
    assert outcome.code == 12
    assert outcome.out.splitlines() == [
        f"different: build {FIRST} and its repetition {SECOND}",
        "",
        "The first checkpoint with another result is transfer.",
        "",
        "FILE                 DIFFERS IN     FIRST                         SECOND",
        "pkg_image/etc/stamp  content, mode  sha256=111111111111 mode=644  sha256=222222222222 mode=600",
        "and 2 more files",
        "",
        "PRODUCT   FIRST             SECOND",
        "live.iso  dddddddddddddddd  eeeeeeeeeeeeeeee",
        "",
        "Not the same as for the first build, on this host or in repositories:",
        "  transfer: repository bookworm changed",
        "",
        "varied: the time zone (TZ=<+14>-14), the number of processors (1)",
    ]
    assert sent(builds, "DELETE") == []


def test_the_status_of_a_repetition_names_the_build(dcctl: Any, builds: Any) -> None:
    line = f"  repeats build {FIRST} in varied surroundings"
    assert line in dcctl("status", SECOND).out.splitlines()
    assert line not in dcctl("status", FIRST).out.splitlines()


def test_json_is_one_document(dcctl: Any, builds: Any) -> None:
    builds.answers["GET", f"/v1/builds/{SECOND}/comparison"] = 200, different()
    outcome = dcctl("reproduce", FIRST, "--json")
    assert outcome.code == 12
    assert json.loads(outcome.out) == different() | {"diffoscope": ""}


def test_a_repetition_that_was_begun_is_continued_by_its_own_id(dcctl: Any, builds: Any) -> None:
    assert dcctl("reproduce", SECOND).code == 0
    assert sent(builds, "POST") == []


def test_a_manifest_is_built_first(dcctl: Any, builds: Any, tmp_path: Path) -> None:
    manifest = tmp_path / "m.xml"
    manifest.write_text("<dc/>")
    builds.answers["POST", "/v1/builds"] = 201, builds.builds[FIRST].view
    outcome = dcctl("reproduce", str(manifest))
    assert outcome.code == 0
    assert outcome.err.startswith(f"the first build is {FIRST}\n")
    assert sent(builds, "POST") == ["/v1/builds", f"/v1/builds/{FIRST}/reproduce"]


@pytest.mark.parametrize("which", [FIRST, SECOND])
def test_a_build_that_fails_gives_its_exit_code(dcctl: Any, daemon: Any, which: str) -> None:
    build = daemon.build(which)
    build.view["reproduces"] = FIRST if which == SECOND else ""
    build.tell(BuildStarted(), BuildFailed(None, ErrorInfo("broken")))
    assert dcctl("reproduce", which).code == 3
    assert sent(daemon, "POST") == []


def test_diffoscope_shows_the_first_file(
    dcctl: Any, builds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin/diffoscope"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nshift 5\ncat "$@"\nexit 1\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    files = (tmp_path / "one", tmp_path / "two")
    for file in files:
        file.write_text(f"of {file.name}\n")
    answer = different(example=tuple(map(str, files)))
    builds.answers["GET", f"/v1/builds/{SECOND}/comparison"] = 200, answer
    assert dcctl("reproduce", FIRST).out.endswith("\nof one\nof two\n")
    assert json.loads(dcctl("reproduce", FIRST, "--json").out)["diffoscope"] == "of one\nof two\n"
    files[1].unlink()
    assert "as root, this command would show what differs" in dcctl("reproduce", FIRST).out
