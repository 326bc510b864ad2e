"""GrubBootMenu: the menu that the manifest asks for, whatever characters it asks in."""

import re
import shlex
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcd.checkpoints.boot.menu import Entry, GrubBootMenu, Menu, grub_cfg
from statemachine.errors import CheckpointError, InvalidManifest

MENU = "media/iso/boot/grub/grub.cfg"


@pytest.fixture
def ready(bench: Any) -> Any:
    """A bench whose boot archive is complete."""
    for name in ("vmlinuz", "initrd.img"):
        (bench.root / "boot_archive" / name).touch()
    return bench


def entry(suffix: str, arguments: str = "", attributes: str = "") -> str:
    return (
        f"<boot_entry {attributes}><title_suffix>{suffix}</title_suffix>"
        f"<kernel_args>{arguments}</kernel_args></boot_entry>"
    )


def titles(bench: Any) -> list[str]:
    text = (bench.root / MENU).read_text()
    return [shlex.split(line)[1] for line in text.splitlines() if line.startswith("menuentry")]


def default_title(bench: Any) -> str:
    found = re.search(r"^set default=(\d+)$", (bench.root / MENU).read_text(), re.MULTILINE)
    assert found
    return titles(bench)[int(found[1])]


def test_without_boot_mods_the_image_has_one_entry_of_its_own_name(ready: Any) -> None:
    (ready.image / "usr/lib").mkdir(parents=True)
    (ready.image / "etc").mkdir()
    (ready.image / "usr/lib/os-release").write_text('ID=x\nPRETTY_NAME="Linux 12 (it\'s)"\n')
    # As in an image: absolute links begin at the image, not at the host.
    (ready.image / "etc/os-release").symlink_to("/usr/lib/os-release")
    ready.execute(GrubBootMenu("menu"))
    assert titles(ready) == ["Linux 12 (it's)"]
    text = (ready.root / MENU).read_text()
    assert "linux /live/vmlinuz boot=live components quiet" in text
    assert "initrd /live/initrd.img" in text
    assert "set timeout=5" in text


def test_an_image_without_a_name_is_called_as_the_distribution(ready: Any) -> None:
    ready.execute(GrubBootMenu("menu"))
    assert titles(ready) == ["test"]


def test_entries_are_inserted_at_start_and_end_and_the_last_default_wins(ready: Any) -> None:
    ready.execute(
        GrubBootMenu("menu"),
        '<boot_mods title="Live" timeout="0">'
        + entry("a", "a=1", 'insert_at="end" default_entry="true"')
        + entry("b", "b=1", 'insert_at="start" default_entry="true"')
        + entry("c", "c=1", 'insert_at="start"')
        + "</boot_mods>",
    )
    assert titles(ready) == ["Live b", "Live c", "Live", "Live a"]
    assert default_title(ready) == "Live b"
    text = (ready.root / MENU).read_text()
    assert "set timeout=0" in text
    assert "linux /live/vmlinuz boot=live components quiet b=1" in text


def test_the_images_own_entry_is_the_default_when_none_asks(ready: Any) -> None:
    ready.execute(
        GrubBootMenu("menu", kernel_args="root=/dev/sda1"),
        '<boot_mods title="Live">' + entry("b", "", 'insert_at="start"') + "</boot_mods>",
    )
    assert default_title(ready) == "Live"
    assert "boot=live" not in (ready.root / MENU).read_text()


def test_two_entries_that_look_alike_are_still_two(ready: Any) -> None:
    ready.execute(
        GrubBootMenu("menu"),
        '<boot_mods title="L">'
        + entry("x")
        + entry("x", "", 'default_entry="true"')
        + "</boot_mods>",
    )
    assert "set default=2" in (ready.root / MENU).read_text()


def test_an_argument_with_blanks_stays_one(ready: Any) -> None:
    ready.execute(
        GrubBootMenu("menu"),
        "<boot_mods>" + entry("x", 'dyndbg="file a.c +p" init=/bin/sh') + "</boot_mods>",
    )
    assert "'dyndbg=file a.c +p' init=/bin/sh" in (ready.root / MENU).read_text()


def test_an_open_quote_is_refused_when_the_manifest_is_checked(ready: Any) -> None:
    with pytest.raises(InvalidManifest, match="words with balanced quotes"):
        ready.execute(GrubBootMenu("menu"), "<boot_mods>" + entry("x", "a='b") + "</boot_mods>")


def test_more_arguments_than_the_kernel_reads_are_refused(ready: Any) -> None:
    half = "x=" + "1" * 1200
    with pytest.raises(CheckpointError, match="too many arguments") as caught:
        ready.execute(
            GrubBootMenu("menu", kernel_args=half),
            "<boot_mods>" + entry("x", half.replace("x", "y")) + "</boot_mods>",
        )
    assert "2047 bytes" in caught.value.details


def test_a_name_that_the_image_gives_itself_is_no_option_and_no_command(ready: Any) -> None:
    release = ready.image / "etc/os-release"
    release.parent.mkdir(parents=True, exist_ok=True)
    release.write_text("PRETTY_NAME='--users \"$x\" {'\n")
    ready.execute(GrubBootMenu("menu"))
    assert """menuentry 'users "$x" {' {""" in (ready.root / MENU).read_text()
    release.write_text('PRETTY_NAME="open\n')
    ready.execute(GrubBootMenu("menu"))
    assert "menuentry test {" in (ready.root / MENU).read_text()


def test_a_menu_without_a_boot_archive_says_what_to_run_before(bench: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        bench.execute(GrubBootMenu("menu"))
    assert "DebianBootArchive" in caught.value.resolution


SIGNS = st.sampled_from("'\"\\$`{}();&|<>#!*?[]~ -=")
words = st.text(
    SIGNS | st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12
)


@pytest.mark.skipif(
    shutil.which("grub-script-check") is None, reason="grub-common is not installed"
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(words, st.lists(words, max_size=4)), min_size=1, max_size=4))
def test_titles_and_arguments_reach_grub_as_they_are(
    entries: list[tuple[str, list[str]]],
) -> None:
    text = grub_cfg(
        Menu("", 5, tuple(Entry(title, tuple(words)) for title, words in entries), 0, 0)
    )
    checked = subprocess.run(["grub-script-check"], input=text.encode(), capture_output=True)
    assert checked.returncode == 0, checked.stderr
    lines = text.splitlines()
    read_titles = [shlex.split(line)[1] for line in lines if line.startswith("menuentry")]
    read_arguments = [shlex.split(line)[2:] for line in lines if line.startswith("    linux")]
    assert read_titles == [title for title, _ in entries]
    assert read_arguments == [arguments for _, arguments in entries]
