"""custom-script: what the command sees, what makes it fail, and what decides its key."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.areas import shell_line
from dcd.checkpoints.custom_script import CustomScript
from dcd.checkpoints.interface import CHROOT
from dcd.manifest.diagnostics import ManifestError, refuse
from dcd.manifest.values import InputPath
from statemachine.errors import CheckpointError, InvalidManifest, NotFound, Unprepared


def test_a_command_runs_in_the_shell(bench: Any) -> None:
    bench.execute(CustomScript("c", "echo hello > {PKG_IMAGE_PATH}/motd"))
    assert (bench.image / "motd").read_text() == "hello\n"


def test_line_breaks_of_a_command_count_as_spaces(bench: Any) -> None:
    bench.execute(CustomScript("c", "\n  echo one\n  two > {TMP_DIR}/out\n"))
    assert (bench.root / "tmp/out").read_text() == "one two\n"


def test_the_areas_are_tokens_and_variables(bench: Any) -> None:
    command = (
        'for area in {PKG_IMAGE_PATH} {BOOT_ARCHIVE} {MEDIA_DIR} {TMP_DIR} {BUILD_DATA} "$BOOT_ARCHIVE";'
        ' do echo "$area"; done > {TMP_DIR}/out; pwd >> {TMP_DIR}/out'
    )
    bench.execute(CustomScript("c", command))
    root = bench.root
    areas = ["pkg_image", "boot_archive", "media", "tmp", "", "boot_archive", "tmp"]
    assert (root / "tmp/out").read_text().splitlines() == [str(root / area) for area in areas]


def test_doc_values_are_replaced_and_stay_one_word(bench: Any) -> None:
    bench.execute(
        CustomScript("c", "printf '<%s>' %{//boot_mods.title} > {TMP_DIR}/out"),
        """<distro_spec><img_params><media_im>
             <boot_mods title="It's  &quot;mine&quot; $HOME"/></media_im></img_params></distro_spec>""",
    )
    assert (bench.root / "tmp/out").read_text() == '<It\'s  "mine" $HOME>'


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cp {TMP_DIR}/x y", "cp '/a b'\"'\"'c\"$d'/x y"),
        ('cp "{TMP_DIR}/x" y', 'cp "/a b\'c\\"\\$d/x" y'),
        ("cp '{TMP_DIR}/x' y", "cp '/a b'\\''c\"$d/x' y"),
        (r"echo \" {TMP_DIR}", "echo \\\" '/a b'\"'\"'c\"$d'"),
        ("awk '{print}' ${HOME} %{x", "awk '{print}' ${HOME} %{x"),
        ("echo {UNKNOWN} ${TMP_DIR}", "echo {UNKNOWN} ${TMP_DIR}"),
    ],
)
def test_values_are_quoted_for_where_they_stand(bench: Any, line: str, expected: str) -> None:
    assert shell_line(line, bench.empty_doc(), {"TMP_DIR": Path("/a b'c\"$d")}) == expected


def test_a_path_that_leads_to_nothing_fails_the_checkpoint(bench: Any) -> None:
    with pytest.raises(NotFound, match="nosuch"):
        bench.execute(CustomScript("c", "echo %{//nosuch}"))


def test_a_failure_shows_status_and_output(bench: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        bench.execute(CustomScript("c", "echo broken >&2; exit 3"))
    assert caught.value.brief == "the command failed with exit status 3"
    assert caught.value.details == "its last lines:\nbroken"


@pytest.mark.parametrize("chroot", [False, True])
def test_a_failed_script_is_told_by_its_own_name_and_line(
    bench: Any, tmp_path: Path, chroot: bool, own_mounts: None
) -> None:
    bench.add_shell()
    script = tmp_path / "post.sh"
    script.write_text("#!/bin/sh -e\n# a comment\n:\nnosuchprogram --option\n")
    checkpoint = CustomScript("c", script=InputPath("files/post.sh"), chroot=chroot)
    with pytest.raises(CheckpointError) as caught:
        bench.execute(checkpoint, inputs={"files/post.sh": script})
    brief = "the script files/post.sh failed with exit status 127: a command was not found"
    assert caught.value.brief == brief
    assert "files/post.sh line 4: nosuchprogram: not found" in caught.value.details
    told = f"{caught.value.brief} {caught.value.details}"
    assert not any(word in told for word in ("custom-script", "exec", "shift", "command: "))


def test_a_failed_text_is_told_by_its_line(bench: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        bench.execute(CustomScript("c", text="true\nnosuchprogram\n", shell="/bin/bash"))
    assert caught.value.brief.startswith("the script text failed")
    assert "text line 2: nosuchprogram: command not found" in caught.value.details


def test_a_failure_in_the_middle_of_a_text_counts_when_the_script_says_so(bench: Any) -> None:
    with pytest.raises(CheckpointError):
        bench.execute(CustomScript("c", text="set -e\nfalse\ntrue\n"))


def test_a_text_keeps_its_lines_and_its_own_interpreter(bench: Any) -> None:
    text = '\n#!/usr/bin/env -S awk -f\nBEGIN {\n  print 6 * 7 > "{TMP_DIR}/out"\n}\n'
    bench.execute(CustomScript("c", text=text))
    assert (bench.root / "tmp/out").read_text() == "42\n"


def test_a_captured_script_is_run_as_it_is(bench: Any, tmp_path: Path) -> None:
    script = tmp_path / "blob"
    script.write_text('echo "{PKG_IMAGE_PATH}" "$PKG_IMAGE_PATH" > "$TMP_DIR/out"\n')
    bench.execute(
        CustomScript("c", script=InputPath("scripts/a.sh")), inputs={"scripts/a.sh": script}
    )
    assert (bench.root / "tmp/out").read_text() == f"{{PKG_IMAGE_PATH}} {bench.image}\n"


def test_a_script_that_was_not_captured_is_named(bench: Any) -> None:
    with pytest.raises(CheckpointError, match=r"scripts/a\.sh"):
        bench.execute(CustomScript("c", script=InputPath("scripts/a.sh")))


def test_shell_environment_and_directory_are_the_manifests(bench: Any) -> None:
    (bench.image / "etc").mkdir()
    bench.execute(
        CustomScript(
            "c",
            'echo "$BASH_VERSION" | grep -q . && echo "$GREETING" > out',
            shell="/bin/bash",
            environment=("GREETING=hello  world=1",),
            working_directory="{PKG_IMAGE_PATH}/etc",
        )
    )
    assert (bench.image / "etc/out").read_text() == "hello  world=1\n"


def test_nothing_of_the_daemons_environment_is_seen(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("DCD_SECRET_X", "secret")
    bench.execute(CustomScript("c", "env > {TMP_DIR}/out"))
    assert "secret" not in (bench.root / "tmp/out").read_text()


def test_the_time_limit_fails_the_checkpoint(bench: Any) -> None:
    with pytest.raises(CheckpointError, match="the command did not finish within"):
        bench.execute(CustomScript("c", "sleep 1000", timeout_seconds=0.2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one command, text or script"),
        ({"command": "  \n "}, "one command, text or script"),
        ({"command": "true", "text": "true"}, "one command, text or script"),
        ({"command": "true", "timeout_seconds": 0.0}, "more than 0"),
        ({"command": "ls {MEDIA_DIR}", "chroot": True}, "not inside the image"),
        ({"command": "true", "chroot": True, "writes": ("/srv",)}, "no permissions on the host"),
        (
            {"command": "true", "chroot": True, "capabilities": ("SYS_ADMIN",)},
            "no permissions on the",
        ),
        ({"command": "true", "chroot": True, "devices": ("kvm",)}, "no permissions on the host"),
        ({"command": "true", "capabilities": ("CAP_SYS_ADMIN",)}, "is not a capability"),
        ({"command": "true", "writes": ("srv",)}, "not an absolute path"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_check(
    bench: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidManifest, match=message):
        refuse(CustomScript("c", **arguments).check(bench.empty_doc()))


def test_the_interpreter_and_what_paths_find_are_in_the_key(bench: Any) -> None:
    script = CustomScript("c", "echo %{//boot_mods.title} %{//made_later}")

    def state(title: str) -> Any:
        doc = bench.execute(
            CustomScript("other", "true"),
            f'<distro_spec><img_params><media_im><boot_mods title="{title}"/></media_im></img_params>'
            "</distro_spec>",
        )
        return script.external_state(doc)

    assert set(state("a")) == {"interpreter /bin/sh", "%{//boot_mods.title}"}
    assert state("a") == state("a")
    assert state("a") != state("b")


def test_a_changed_interpreter_changes_the_key(bench: Any, tmp_path: Path) -> None:
    shell = tmp_path / "shell"
    shutil.copy("/bin/sh", shell)
    script = CustomScript("c", "true", shell=str(shell))
    before = script.external_state(bench.empty_doc())
    with shell.open("ab") as file:
        file.write(b"\0")
    after = script.external_state(bench.empty_doc())
    assert list(before) == list(after) == [f"interpreter {shell}"]
    assert before != after


@pytest.mark.parametrize(
    ("line", "programs"),
    [
        ("#!/bin/bash -e", {"/bin/bash"}),
        ("#! /usr/bin/env -S awk -f", {"/usr/bin/env", "/usr/bin/awk"}),
        ("#!/usr/bin/env nosuch", {"/usr/bin/env"}),
        ("# no interpreter", {"/bin/sh"}),
    ],
)
def test_the_interpreter_of_a_text_is_the_one_that_its_first_line_names(
    bench: Any, line: str, programs: set[str]
) -> None:
    script = CustomScript("c", text=f"\n{line}\ntrue\n")
    assert set(script.external_state(bench.empty_doc())) == {f"interpreter {p}" for p in programs}


def test_a_missing_interpreter_is_found_before_anything_runs(bench: Any) -> None:
    with pytest.raises(Unprepared, match="no /opt/nosuch/perl"):
        CustomScript("c", "x", shell="/opt/nosuch/perl").external_state(bench.empty_doc())


def test_the_network_is_asked_for(bench: Any) -> None:
    assert not CustomScript("c", "true").needs(bench.empty_doc()).network
    assert CustomScript("c", "true", network=True).needs(bench.empty_doc()).network


def test_rights_on_the_host_are_asked_for(bench: Any) -> None:
    needs = CustomScript("c", "true").needs(bench.empty_doc())
    assert (needs.capabilities, needs.devices, needs.writes) == (CHROOT, (), ())
    asking = CustomScript(
        "c", "true", capabilities=("SYS_ADMIN",), devices=("kvm",), writes=("/srv/export",)
    )
    needs = asking.needs(bench.empty_doc())
    assert needs.capabilities == (*CHROOT, "SYS_ADMIN")
    assert (needs.devices, needs.writes) == (("kvm",), (Path("/srv/export"),))


@pytest.mark.root
def test_inside_the_image_only_the_image_is_seen(bench: Any, own_mounts: None) -> None:
    bench.add_shell()
    bench.execute(
        CustomScript(
            "c",
            'test -d /proc/self && echo x > /tmp/gone && echo "$PKG_IMAGE_PATH" > {PKG_IMAGE_PATH}/out',
            chroot=True,
        )
    )
    text = "#!/bin/sh\npwd >> /out\n"
    bench.execute(CustomScript("c", text=text, chroot=True, working_directory="/bin"))
    assert (bench.image / "out").read_text() == "/\n/bin\n"
    for name in ("tmp", "run", "proc", "dev"):
        assert not os.path.ismount(bench.image / name)
        assert list((bench.image / name).iterdir()) == []


@pytest.mark.root
def test_a_command_that_fails_inside_the_image_leaves_no_mount(
    bench: Any, own_mounts: None
) -> None:
    bench.add_shell()
    with pytest.raises(CheckpointError, match="the command failed with exit status 5"):
        bench.execute(CustomScript("c", "exit 5", chroot=True))
    assert str(bench.root) not in Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize("path", ["SHA256SUMS", "out/test.xml"])
def test_what_cannot_be_delivered_is_refused(bench: Any, path: str) -> None:
    with pytest.raises(ManifestError, match="cannot be delivered"):
        bench.execute(CustomScript("test", command="true", deliver=(path,)))


def test_two_files_of_one_name_are_not_delivered(bench: Any) -> None:
    with pytest.raises(ManifestError, match="cannot be delivered"):
        bench.execute(CustomScript("test", command="true", deliver=("a/x", "b/x")))


def test_a_command_inside_the_image_delivers_nothing(bench: Any) -> None:
    with pytest.raises(ManifestError, match="inside the image"):
        bench.execute(CustomScript("test", command="true", chroot=True, deliver=("x",)))


@pytest.mark.parametrize("made", ["true", "mkdir {}", "ln -s /etc/passwd {}", "mkfifo {}"])
def test_a_file_to_deliver_that_was_not_made_fails(bench: Any, made: str) -> None:
    command = made.replace("{}", "{MEDIA_DIR}/root.tar")
    with pytest.raises(CheckpointError, match=r"made no file root\.tar to deliver"):
        bench.execute(CustomScript("test", command=command, deliver=("root.tar",)))
    assert bench.artifacts == []
