"""TransferCPIO: files and directories of the workspace, copied whole."""

import os
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.transfer.cpio import TransferCPIO
from dcd.manifest.diagnostics import refuse
from statemachine.errors import CheckpointError, InvalidManifest


def software(data: str, source: str = "{PKG_IMAGE_PATH}", to: str = "{BOOT_ARCHIVE}") -> str:
    return (
        f'<software name="ba-init" type="CPIO"><destination><dir path="{to}"/></destination>'
        f'<source><dir path="{source}"/></source>{data}</software>'
    )


def test_listed_entries_are_copied_but_for_the_excluded_ones(bench: Any) -> None:
    (bench.image / "usr/share/doc").mkdir(parents=True)
    (bench.image / "usr/share/a file").write_text("a")
    (bench.image / "usr/share/doc/b").write_text("b")
    (bench.image / "link").symlink_to("/no/such")
    bench.execute(
        TransferCPIO("ba-init"),
        software(
            '<software_data action="install"><name>usr</name><name>link</name></software_data>'
            '<software_data action="uninstall"><name>usr/share/doc</name></software_data>'
        ),
    )
    archive = bench.root / "boot_archive"
    assert (archive / "usr/share/a file").read_text() == "a"
    assert (archive / "link").readlink() == Path("/no/such")
    assert not (archive / "usr/share/doc").exists()
    assert bench.reports[-1].fraction == 1.0


def test_destinations_below_an_area_are_made(bench: Any) -> None:
    (bench.image / "x").write_text("x")
    data = "<software_data><name>x</name></software_data>"
    bench.execute(TransferCPIO("ba-init"), software(data, to="{MEDIA_DIR}/iso/live"))
    assert (bench.root / "media/iso/live/x").read_text() == "x"


def test_a_directory_that_names_nothing_is_copied_whole(bench: Any) -> None:
    (bench.image / "a").mkdir()
    (bench.image / "a/b").write_text("b")
    (bench.image / "c").write_text("c")
    never = '<software_data action="uninstall"><name>c</name></software_data>'
    bench.execute(TransferCPIO("ba-init"), software(never).replace('"CPIO"', '"DIR"'))
    archive = bench.root / "boot_archive"
    assert sorted(archive.rglob("*")) == [archive / "a", archive / "a/b"]


def test_the_skeleton_of_etc_and_var_is_all_but_regular_files(bench: Any) -> None:
    for directory in ("etc/svc", "var/adm/log", "var/tmp", "var/left-out", "usr/lib"):
        (bench.image / directory).mkdir(parents=True)
    (bench.image / "var/tmp").chmod(0o1777)
    (bench.image / "etc/passwd").write_text("root")
    (bench.image / "var/adm/log/messages").write_text("old")
    (bench.image / "etc/init").symlink_to("../sbin/init")
    (bench.image / "var/mail").symlink_to("/elsewhere")
    os.mkfifo(bench.image / "etc/svc/pipe")
    data = (
        '<software_data action="install"><name>etc/passwd</name></software_data>'
        '<software_data action="uninstall"><name>var/left-out</name></software_data>'
    )
    bench.execute(TransferCPIO("ba-init", skeleton=True), software(data))
    archive = bench.root / "boot_archive"
    found = {str(path.relative_to(archive)) for path in archive.rglob("*")}
    assert found == {
        "etc", "etc/passwd", "etc/init", "etc/svc", "etc/svc/pipe",
        "var", "var/adm", "var/adm/log", "var/mail", "var/tmp",
    }  # fmt: skip
    assert (archive / "etc/init").readlink() == Path("../sbin/init")
    assert (archive / "var/tmp").stat().st_mode & 0o7777 == 0o1777
    assert (archive / "etc/svc/pipe").is_fifo()


def test_an_image_without_var_has_a_skeleton_of_etc(bench: Any) -> None:
    (bench.image / "etc").mkdir()
    (bench.image / "etc/x").touch()
    data = "<software_data><name>etc/x</name></software_data>"
    bench.execute(TransferCPIO("ba-init", skeleton=True), software(data))
    assert (bench.root / "boot_archive/etc/x").exists()


def test_a_missing_entry_is_skipped_and_named(bench: Any) -> None:
    (bench.image / "etc").mkdir()
    (bench.image / "etc/x").touch()
    data = "<software_data><name>etc</name><name>usr/bin/nosuch</name></software_data>"
    bench.execute(TransferCPIO("ba-init"), software(data))
    assert (bench.root / "boot_archive/etc/x").exists()
    said = [report.message for report in bench.reports]
    assert "there is no usr/bin/nosuch; skipped" in said


def test_when_none_of_the_entries_is_there_it_fails_with_their_names(bench: Any) -> None:
    data = "<software_data><name>nosuch</name></software_data>"
    with pytest.raises(CheckpointError) as caught:
        bench.execute(TransferCPIO("ba-init"), software(data))
    assert "nosuch" in caught.value.details


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ([], "needs a <software>"),
        ([software("")], "nothing to copy"),
        (
            [software('<software_data action="unpack"><name>x</name></software_data>')],
            "unpack means nothing",
        ),
        (
            [software("<software_data><name>x</name></software_data>", source="/etc")],
            "begins with an area",
        ),
        (
            [software("<software_data><name>x</name></software_data>", to="{TMP_DIR}/../../x")],
            "not a path without",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_at_check(
    bench: Any, elements: list[str], message: str
) -> None:
    with pytest.raises(InvalidManifest, match=message):
        refuse(TransferCPIO("ba-init").check(bench.doc(*elements)))
