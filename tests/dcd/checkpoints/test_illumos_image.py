"""The image area of illumos: accounts, services, what is saved for the installed system."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.image.illumos.configure import (
    AIPrePkgImgMod,
    LiveCDPrePkgImgMod,
    TextPrePkgImgMod,
    installed_branch,
)
from dcd.platform.password_hash import hashed
from statemachine.errors import CheckpointError
from tests.dcd.checkpoints.illumos_tree import EPOCH, make_tree, run_all


@pytest.fixture
def image(bench: Any) -> Path:
    make_tree(bench.image)
    return bench.image  # type: ignore[no-any-return]


def shadow(image: Path) -> dict[str, list[str]]:
    lines = (image / "etc/shadow").read_text().splitlines()
    return {line.split(":")[0]: line.split(":")[1:] for line in lines}


def test_root_gets_its_password_and_keeps_the_other_fields(bench: Any, image: Path) -> None:
    run_all(bench, TextPrePkgImgMod("pre", root_password="sample"))
    assert shadow(image)["root"] == [hashed("sample", f"{EPOCH}\0root"), "19000", *[""] * 6]
    assert shadow(image)["bin"][0] == "NP"
    assert (image / "etc/shadow").stat().st_mode & 0o7777 == 0o400
    stored = "$6$salt$hash"
    run_all(bench, TextPrePkgImgMod("pre", root_password=stored, is_plaintext=False))
    assert shadow(image)["root"][0] == stored


def test_a_hash_that_is_none_is_refused_and_not_repeated(bench: Any) -> None:
    (found,) = (
        each
        for each in TextPrePkgImgMod("pre", root_password="plain", is_plaintext=False).check(
            bench.doc()
        )
        if each.severity == "error"
    )
    assert "plain" not in found.message


def test_users_of_the_configuration_are_made_without_programs_of_the_image(
    bench: Any, image: Path
) -> None:
    users = """<configuration name="pre" type="user">
    <user name="root"><password>other</password></user>
    <user name="jack" uid="101" home="/jack"><password hashed="true">$5$x$y</password></user>
    <user name="jill"/></configuration>"""
    run_all(bench, TextPrePkgImgMod("pre"), elements=(users,))
    assert shadow(image)["root"][0] == hashed("other", f"{EPOCH}\0root")
    assert shadow(image)["jack"][0] == "$5$x$y"
    assert shadow(image)["jill"][0] == "NP"
    lines = (image / "etc/passwd").read_text().splitlines()
    assert "jack:x:101:10::/jack:/usr/bin/bash" in lines
    assert "jill:x:100:10::/export/home/jill:/usr/bin/bash" in lines
    assert (image / "jack").stat().st_uid == 101


def test_an_image_without_root_is_refused(bench: Any, image: Path) -> None:
    (image / "etc/shadow").write_text("bin:NP:::::::\n")
    with pytest.raises(CheckpointError, match="no account root"):
        run_all(bench, TextPrePkgImgMod("pre"))


def test_without_svccfg_the_seed_and_the_profiles_are_put_where_the_image_applies_them(
    bench: Any, image: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "generic.xml"
    profile.write_text("<profile/>")
    configurations = (
        '<configuration name="pre" type="sysconf" source="/etc/svc/profile/generic_limited_net.xml"/>',
        '<configuration name="pre" type="sysconf" source="/var/svc/profile/ns_files.xml"/>',
        f'<configuration name="pre" type="sysconf" source="{profile}"/>',
    )
    doc = bench.doc(*configurations)
    checkpoint = TextPrePkgImgMod("pre", hostname="sample")
    (told,) = checkpoint.check(doc)
    assert (told.severity, "no svccfg" in told.message) == ("warning", True)
    assert "smf_repository" in told.suggestion
    checkpoint.execute(bench.context(doc, inputs={str(profile): profile}))
    repository = image / "etc/svc/repository.db"
    assert repository.read_bytes() == (image / "lib/svc/seed/global.db").read_bytes()
    assert repository.stat().st_mode & 0o777 == 0o600
    site = image / "etc/svc/profile/site"
    assert sorted(each.name for each in site.iterdir()) == [
        "dcd-01-generic_limited_net.xml",
        "dcd-02-generic.xml",
    ]
    assert (image / "etc/nodename").read_text() == "sample\n"
    assert "no profile /var/svc/profile/ns_files.xml; skipped" in bench.messages()


def test_a_prepared_repository_is_taken_instead_of_the_seed(
    bench: Any, image: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.db"
    mine.write_bytes(b"prepared")
    checkpoint = TextPrePkgImgMod("pre", smf_repository=str(mine))  # type: ignore[arg-type]
    assert list(checkpoint.check(bench.doc())) == []
    checkpoint.execute(bench.context(bench.doc(), inputs={str(mine): mine}))
    assert (image / "etc/svc/repository.db").read_bytes() == b"prepared"


def test_on_illumos_svccfg_imports_the_manifests_and_applies_the_profiles(
    bench: Any, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("smf", "configure"):
        monkeypatch.setattr(f"dcd.checkpoints.image.illumos.{module}.is_illumos", lambda: True)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "svccfg").write_text(
        '#!/bin/sh\necho "$SVCCFG_MANIFEST_PREFIX $*" >> "$SVCCFG_REPOSITORY"\n'
    )
    (tools / "svccfg").chmod(0o755)
    source = "/etc/svc/profile/generic_limited_net.xml"
    doc = bench.doc(f'<configuration name="pre" type="sysconf" source="{source}"/>')
    checkpoint = TextPrePkgImgMod("pre")
    assert checkpoint.needs(doc).tools == ("svccfg",)
    assert list(checkpoint.check(doc)) == []
    checkpoint.execute(bench.context(doc, environment={"PATH": f"{tools}:/usr/bin:/bin"}))
    assert (image / "etc/svc/repository.db").read_text().splitlines() == [
        f"{image} import {image}/lib/svc/manifest",
        f"{image} apply {image}{source}",
    ]
    assert not (image / "etc/svc/profile/site").exists()


def test_files_that_differ_on_media_are_saved_for_the_installed_system(
    bench: Any, image: Path
) -> None:
    run_all(bench, TextPrePkgImgMod("pre"))
    save = image / "save"
    assert (save / "etc/system").read_text() == "* settings\n"
    assert (image / "etc/system").read_text().splitlines() == [
        "* settings",
        "set zfs:zfs_arc_max=0x4002000",
        "set zfs:zfs_vdev_cache_size=0",
    ]
    assert (save / "etc/inet/hosts").read_text() == "127.0.0.1\tlocalhost\n"
    moved = "lib/svc/manifest/network/network-physical.xml"
    assert (save / moved).exists()
    assert not (image / moved).exists()
    size = sum(
        Path(where, name).lstat().st_size for where, _, names in os.walk(image) for name in names
    )
    (line,) = (image / ".image_info").read_text().splitlines()
    assert line == f"IMAGE_SIZE={size >> 10}"


def test_a_live_desktop_has_its_power_manager_saved_and_the_theme_as_background(
    bench: Any, image: Path
) -> None:
    power = image / "usr/share/gnome/autostart/gnome-power-manager.desktop"
    panel = image / "etc/gconf/schemas/panel-default-setup.entries"
    for file in (power, panel):
        file.parent.mkdir(parents=True)
        file.write_text("<string>image</string>")
    run_all(bench, LiveCDPrePkgImgMod("pre"))
    assert not power.exists()
    assert (image / "save" / power.relative_to(image)).exists()
    assert panel.read_text() == "<string>gtk</string>"
    assert (image / "save" / panel.relative_to(image)).read_text() == "<string>image</string>"


def test_the_automated_installer_is_gathered_and_its_service_named(bench: Any, image: Path) -> None:
    ai = image / "usr/share/auto_install"
    ai.mkdir()
    (ai / "version").write_text("IMAGE_VERSION=3.0\n")
    (image / "usr/share/install").mkdir()
    (image / "usr/share/install/ai.dtd").touch()
    catalog = image / "var/pkg/state/installed/catalog.base.C"
    catalog.parent.mkdir(parents=True)
    stem = {"system/install/auto-install": [{"version": "0.5.11,5.11-0.175.1:20260101T000000Z"}]}
    catalog.write_text(json.dumps({"_SIGNATURE": {}, "sample": stem}))
    doc = run_all(bench, AIPrePkgImgMod("pre"))
    assert (image / "auto_install/version").exists()
    assert (image / "auto_install/ai.dtd").exists()
    info = (image / ".image_info").read_text().splitlines()
    assert info[1:] == ["IMAGE_VERSION=3.0", "SERVICE_NAME=solarisdev-i386-175.1"]
    assert doc.find_path("/persistent/install_service.service_name") == ["solarisdev-i386-175.1"]


@pytest.mark.parametrize("text", ["", "{", '{"sample": {}}'])
def test_an_image_without_the_installer_has_no_version(tmp_path: Path, text: str) -> None:
    catalog = tmp_path / "var/pkg/state/installed/catalog.base.C"
    catalog.parent.mkdir(parents=True)
    catalog.write_text(text)
    assert installed_branch(tmp_path, "auto-install") is None


def test_nothing_of_the_host_is_followed_through_links_of_the_image(
    bench: Any, image: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(image / "etc/inet")
    (image / "etc/inet").symlink_to(outside)
    (image / "etc/nodename").symlink_to(outside / "nodename")
    run_all(bench, TextPrePkgImgMod("pre", hostname="sample"))
    assert list(outside.iterdir()) == []


AUTO_INSTALL = "usr/share/auto_install"


@pytest.mark.parametrize(
    ("link", "content"),
    [
        ("auto_install/d", f"{AUTO_INSTALL}/d/file"),
        ("auto_install/f", f"{AUTO_INSTALL}/f"),
        ("auto_install/x.dtd", "usr/share/install/x.dtd"),
        ("auto_install/service_bundle.dtd.1", "usr/share/lib/xml/dtd/service_bundle.dtd.1"),
        (f"{AUTO_INSTALL}/y.dtd", "usr/share/install/y.dtd"),
    ],
)
def test_the_installers_files_are_not_written_through_links_of_the_image(
    bench: Any, image: Path, tmp_path: Path, link: str, content: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("host")
    target = outside if content.endswith("/d/file") else outside / "file"
    for path in (content, link, f"{AUTO_INSTALL}/version"):
        (image / path).parent.mkdir(parents=True, exist_ok=True)
    (image / content).write_text("image")
    (image / link).symlink_to(target)

    with suppress(CheckpointError):
        run_all(bench, AIPrePkgImgMod("pre"))

    assert [path.read_text() for path in outside.iterdir()] == ["host"]


def test_the_panels_settings_are_not_written_through_a_link(
    bench: Any, image: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    panel = image / "etc/gconf/schemas/panel-default-setup.entries"
    inside = image / str(outside).lstrip("/")
    for path in (panel, inside):
        path.parent.mkdir(parents=True, exist_ok=True)
    panel.symlink_to(outside)
    inside.write_text("<string>image</string>")
    run_all(bench, LiveCDPrePkgImgMod("pre"))
    assert not outside.exists()
    assert panel.read_text() == "<string>gtk</string>"


def test_a_pipe_among_the_installers_files_is_named(bench: Any, image: Path) -> None:
    (image / AUTO_INSTALL).mkdir(parents=True)
    os.mkfifo(image / AUTO_INSTALL / "pipe")
    with pytest.raises(CheckpointError, match="auto_install/pipe of the image is no regular file"):
        run_all(bench, AIPrePkgImgMod("pre"))


@pytest.mark.parametrize(
    "catalog",
    [
        "[]",
        '{"a": 3}',
        '{"a": {"auto-install": 3}}',
        '{"a": {"auto-install": [{}]}}',
        "[" * 100_000,
    ],
)
def test_another_catalog_than_that_of_pkg_names_no_version(image: Path, catalog: str) -> None:
    place = image / "var/pkg/state/installed/catalog.base.C"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(catalog)
    assert installed_branch(image, "auto-install") is None


def test_a_number_of_thousands_of_digits_is_that_of_no_account(bench: Any, image: Path) -> None:
    with (image / "etc/passwd").open("a") as file:
        file.write(f"odd:x:{'9' * 5000}:1::/:\n")
    user = '<configuration name="pre" type="user"><user name="jill"/></configuration>'
    run_all(bench, TextPrePkgImgMod("pre"), elements=(user,))
    assert "\njill:x:" in (image / "etc/passwd").read_text()
