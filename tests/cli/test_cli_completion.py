"""Completion: what the shells are offered at each place of a command line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.completion import SCRIPTS


@pytest.fixture
def offered(dcctl, daemon):
    """What is offered for the last of the words."""
    first, second = daemon.build("k2p7abcd"), daemon.build("zzzz")
    first.view["state"] = "failed"
    views = [first.view, second.view]

    def listed(request):
        wanted = request.query.get("state", "")
        return 200, {
            "builds": [each for each in views if not wanted or each["state"] in wanted.split(",")],
            "next": None,
        }

    daemon.answers["GET", "/v1/builds"] = listed

    def ask(*words: str) -> list[str]:
        done = dcctl("completion", "--words", str(len(words)), "--", "dcctl", *words)
        assert (done.code, done.err) == (0, "")
        return [line.split("\t")[0] for line in done.out.splitlines()]

    return ask


def test_commands_and_their_options_are_offered(offered) -> None:
    assert "submit" in offered("")
    assert offered("subm") == ["submit"]
    assert {"--follow", "--json", "--socket"} <= set(offered("submit", "--"))
    assert offered("submit", "--foll") == ["--follow"]
    assert offered("--js") == ["--json"]


def test_ids_of_builds_are_offered_those_that_fit(offered) -> None:
    assert offered("status", "") == ["k2p7abcd", "zzzz"]
    assert offered("status", "k") == ["k2p7abcd"]
    assert offered("--json", "rm", "k2p7abcd", "") == ["zzzz"], "one that is named is not offered"
    assert offered("retry", "") == ["k2p7abcd"]
    assert offered("status", "k2p7abcd", "") == []


def test_groups_are_offered_where_they_are_taken(offered, daemon) -> None:
    views = [
        {"id": f"k9abcd-{cell}", "name": "live", "state": "failed"} for cell in ("aaaa", "bbbb")
    ]
    daemon.answers["GET", "/v1/builds"] = 200, {"builds": views, "next": None}
    builds = [view["id"] for view in views]
    assert offered("status", "") == [*builds, "k9abcd"]
    assert offered("rm", "k9abcd", "") == builds
    assert offered("list", "--group", "") == ["k9abcd"]
    assert offered("logs", "") == builds


def test_checkpoints_and_artifacts_are_those_of_the_build_on_the_line(offered, daemon) -> None:
    names = [item["name"] for item in daemon.builds["k2p7abcd"].view["checkpoints"]]
    assert offered("logs", "k2p7abcd", "") == names
    assert offered("resume", "k2p7abcd", "--from", "") == names
    assert offered("resume", "k2p7abcd", f"--from={names[0][:3]}") == [f"--from={names[0]}"]
    artifacts = [item["name"] for item in daemon.builds["k2p7abcd"].view["artifacts"]]
    assert offered("download", "k2p7abcd", "") == artifacts


def test_checkpoints_of_a_submit_are_those_of_the_manifest(offered, tmp_path: Path) -> None:
    manifest = tmp_path / "m.xml"
    manifest.write_text("<checkpoint name='one'/>\n<checkpoint\n type='x' name=\"two\"/>")
    assert offered("submit", str(manifest), "--pause-before", "") == ["one", "two"]


def test_choices_are_offered_and_files_are_left_to_the_shell(offered) -> None:
    assert offered("list", "--state", "fa") == ["failed"]
    assert offered("init", "") == ["live", "server", "vm", "netboot", "rootfs", "illumos"]
    assert offered("submit", "") == []
    assert offered("shell", "k2p7abcd", "--", "l") == []


def test_without_a_daemon_nothing_is_offered_and_nothing_is_said(dcctl, tmp_path: Path) -> None:
    words = ["dcctl", "--socket", str(tmp_path / "no"), "status", ""]
    done = dcctl("completion", "--words", "4", "--", *words)
    assert (done.code, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize("shell", SCRIPTS)
def test_each_shell_accepts_its_script(dcctl, shell: str) -> None:
    script = dcctl("completion", shell).out
    assert "dcctl completion --words" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_without_a_shell_it_names_them(dcctl) -> None:
    refused = dcctl("completion")
    assert refused.code == 2
    assert "dcctl completion bash|zsh|fish" in refused.err


def test_bash_completes_a_name_with_its_own_words(daemon, tmp_path: Path) -> None:
    build = daemon.build("k2p7abcd")
    daemon.answers["GET", "/v1/builds"] = 200, {"builds": [build.view], "next": None}
    (tmp_path / "dcctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m cli.main "$@"\n')
    (tmp_path / "dcctl").chmod(0o755)
    (tmp_path / "dcctl.bash").write_text(SCRIPTS["bash"])
    script = (
        f". {tmp_path}/dcctl.bash; COMP_WORDS=(dcctl follow ''); COMP_CWORD=2; "
        '_dcctl; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "DCD_SOCKET": daemon.socket},
    )  # fmt: skip
    assert done.stdout == "k2p7abcd\n"


def test_bash_does_not_run_what_a_name_says(daemon, tmp_path: Path) -> None:
    build = daemon.build("k2p7abcd")
    build.view["artifacts"] = [
        {"name": f"$(touch {tmp_path}/ran) `touch {tmp_path}/ran`", "format": ""}
    ]
    (tmp_path / "dcctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m cli.main "$@"\n')
    (tmp_path / "dcctl").chmod(0o755)
    (tmp_path / "dcctl.bash").write_text(SCRIPTS["bash"])
    script = (
        f". {tmp_path}/dcctl.bash; COMP_WORDS=(dcctl download k2p7abcd ''); COMP_CWORD=3; "
        '_dcctl; printf "%s" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "DCD_SOCKET": daemon.socket},
    )  # fmt: skip
    assert done.stdout.startswith("\\$\\(touch")
    assert not (tmp_path / "ran").exists()


def test_an_option_with_its_value_is_completed_as_bash_splits_it(offered, daemon) -> None:
    names = [item["name"] for item in daemon.builds["k2p7abcd"].view["checkpoints"]]
    assert offered("resume", "k2p7abcd", "--from", "=") == names
    assert offered("resume", "k2p7abcd", "--from", "=", names[0][:3]) == [names[0]]


def test_members_of_a_farm_are_offered(offered, daemon) -> None:
    hosts = [{"host": "a", "state": "up"}, {"host": "b", "state": "draining"}]
    daemon.answers["GET", "/v1/hosts"] = 200, {"hosts": hosts, "waits": []}
    assert offered("move", "k2", "--to", "") == ["a", "b"]
    assert offered("hosts", "drain", "") == ["a", "b"]
