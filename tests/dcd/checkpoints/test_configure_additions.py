"""What a configuration adds beside files: ssh keys, sudo, directories, units and scripts."""

import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.image.configure import DebianPrePkgImgMod
from dcd.manifest.diagnostics import ManifestError
from statemachine.errors import CheckpointError
from tests.dcd.checkpoints.conftest import KEY, add_tool, archive, calls, doc_of

OTHER = KEY.replace("HR4f", "HR4e")


def configuration(inner: str) -> str:
    return f'<configuration name="c">{inner}</configuration>'


def modes(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


# Logins


@pytest.mark.root
def test_keys_are_added_to_those_of_the_account_with_the_modes_that_sshd_wants(
    bench: Any, image: Path, tmp_path: Path
) -> None:
    (image / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nlive:x:1000:1001::/home/live:/x\n"
    )
    (image / "home/live/.ssh").mkdir(parents=True)
    (image / "home/live/.ssh/authorized_keys").write_text(f"{OTHER}\n")
    (tmp_path / "keys").write_text(f"# mine\n\n{KEY}\n{OTHER}\n")
    bench.execute(
        DebianPrePkgImgMod("c"),
        configuration(
            f'<user name="live"><ssh_key source="k.pub"/><ssh_key>no-pty {KEY}</ssh_key></user>'
            f'<user name="root"><ssh_key>{KEY}</ssh_key></user>'
        ),
        inputs={"k.pub": tmp_path / "keys"},
    )
    keys = image / "home/live/.ssh/authorized_keys"
    assert keys.read_text().splitlines() == [OTHER, KEY, f"no-pty {KEY}"]
    assert modes(keys) == (0o600, 1000, 1001)
    assert modes(keys.parent) == (0o700, 1000, 1001)
    assert modes(image / "root/.ssh") == (0o700, 0, 0)
    assert modes(image / "root/.ssh/authorized_keys") == (0o600, 0, 0)


@pytest.mark.root
def test_a_link_in_a_home_does_not_lead_keys_to_the_host(
    bench: Any, image: Path, tmp_path: Path
) -> None:
    (image / "home").mkdir()
    (image / "home/.ssh").symlink_to(tmp_path)
    bench.execute(
        DebianPrePkgImgMod("c"),
        configuration(f'<user name="live"><ssh_key>{KEY}</ssh_key></user>'),
    )
    assert not (tmp_path / "authorized_keys").exists()


@pytest.mark.root
def test_a_file_without_a_public_key_is_named_with_its_line(
    bench: Any, image: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\nhello\n")
    with pytest.raises(CheckpointError, match=r"k\.pub has no public key") as failure:
        bench.execute(
            DebianPrePkgImgMod("c"),
            configuration('\n<user name="live"><ssh_key source="k.pub"/></user>'),
            inputs={"k.pub": tmp_path / "keys"},
        )
    assert "manifest.xml:2" in failure.value.details
    assert "line 2" in failure.value.details


@pytest.mark.root
def test_rights_of_sudo_are_a_file_for_each_user(bench: Any, image: Path) -> None:
    add_tool(image, "usr/bin/sudo")
    bench.execute(
        DebianPrePkgImgMod("c"),
        configuration('<user name="live"><sudo nopasswd="true"/></user>'),
    )
    file = image / "etc/sudoers.d/dcd-live"
    assert file.read_text() == "live ALL=(ALL:ALL) NOPASSWD: ALL\n"
    assert modes(file) == (0o440, 0, 0)


@pytest.mark.root
def test_sudo_without_its_package_is_an_error_with_the_package(bench: Any, image: Path) -> None:
    with pytest.raises(CheckpointError, match="the image has no sudo") as failure:
        bench.execute(DebianPrePkgImgMod("c"), configuration('<user name="live"><sudo/></user>'))
    assert "<name>sudo</name>" in failure.value.resolution


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ('<user name="a"><ssh_key/></user>', "this ssh key of a is empty"),
        (f'<user name="a"><ssh_key source="k">{KEY}</ssh_key></user>', "is given twice"),
        ("<script/>", "this script is empty"),
        ('<script source="s">true</script>', "is given twice"),
        ("<unit/>", "neither a file nor a name"),
        ('<unit source="files/app.servce"/>', "'app.servce' is not the name of a unit"),
        ('<unit source="--root=x.service"/>', "'--root=x.service' is not the name of a unit"),
        ('<unit source="files/a b.service"/>', "'a b.service' is not the name of a unit"),
    ],
)
def test_what_has_no_meaning_is_refused_when_the_manifest_is_checked(
    inner: str, message: str
) -> None:
    found = list(DebianPrePkgImgMod("c").check(doc_of(configuration(inner))))
    assert message in found[0].message
    assert found[0].suggestion


def test_a_key_that_is_cut_off_is_no_key() -> None:
    with pytest.raises(Exception, match="its end is missing"):
        doc_of(configuration(f'<user name="a"><ssh_key>{KEY[:60]}</ssh_key></user>'))


def test_keys_and_sudo_without_a_package_for_them_are_warnings() -> None:
    software = (
        '<software name="t" type="DEB"><software_data><name>nano</name></software_data></software>'
    )
    user = f'<user name="a"><ssh_key>{KEY}</ssh_key><sudo/></user>'
    found = list(DebianPrePkgImgMod("c").check(doc_of(software, configuration(user))))
    assert [(each.severity, each.suggestion) for each in found] == [
        ("warning", "<name>openssh-server</name>"),
        ("warning", "<name>sudo</name>"),
    ]


# Directories


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with all that one can hold."""
    root = tmp_path / "site"
    (root / "bin").mkdir(parents=True)
    (root / "bin/run").write_text("#!/bin/sh\n")
    (root / "bin/run").chmod(0o4750)
    (root / "bin/same").hardlink_to(root / "bin/run")
    (root / "empty").mkdir(mode=0o700)
    (root / "to-run").symlink_to("bin//run")
    (root / "away").symlink_to("/usr/share/nothing")
    os.fsencode(root)
    (root / "ünïcode \udcff").write_bytes(b"x")
    for path in (root / "bin/run", root / "empty"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return root


@pytest.mark.root
def test_a_directory_is_added_whole(bench: Any, image: Path, site: Path, tmp_path: Path) -> None:
    bench.execute(
        DebianPrePkgImgMod("c"),
        configuration('<tree source="site" dest="/srv/new/site" owner="live:sudo"/>'),
        inputs={"site": archive(site, tmp_path / "blob")},
    )
    added = image / "srv/new/site"
    assert modes(image / "srv/new") == (0o755, 0, 0)
    assert modes(added / "bin/run") == (0o4750, 1000, 27)
    assert modes(added / "empty") == (0o700, 1000, 27)
    assert (added / "bin/run").stat().st_ino == (added / "bin/same").stat().st_ino
    assert os.readlink(added / "to-run") == "bin//run"  # noqa: PTH115 - a Path changes its text
    assert (added / "ünïcode \udcff").read_bytes() == b"x"
    assert {int((added / name).stat().st_mtime) for name in ("bin/run", "empty")} == {1_000_000_000}
    assert "lead nowhere in the image: /srv/new/site/away" in bench.messages()


@pytest.mark.root
def test_directories_of_the_image_stay_and_links_in_it_are_followed_inside(
    bench: Any, image: Path, tmp_path: Path
) -> None:
    (image / "usr/lib").mkdir()
    (image / "lib64x").symlink_to("/usr/lib")
    (image / "etc").chmod(0o711)
    (image / "etc/motd").symlink_to(tmp_path / "victim")
    tree = tmp_path / "overlay"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc").chmod(0o777)
    (tree / "etc/motd").write_text("hello")
    (tree / "lib64x").mkdir()
    (tree / "lib64x/x").write_text("x")
    bench.execute(
        DebianPrePkgImgMod("c"),
        configuration('<tree source="o" dest="/" mode="0640"/>'),
        inputs={"o": archive(tree, tmp_path / "blob")},
    )
    assert modes(image / "etc") == (0o711, 0, 0)
    assert (image / "etc/motd").read_text() == "hello"
    assert not (tmp_path / "victim").exists()
    assert modes(image / "usr/lib/x") == (0o640, 0, 0)


@pytest.mark.root
def test_new_directories_on_the_way_into_a_home_are_the_users(
    bench: Any, image: Path, site: Path, tmp_path: Path
) -> None:
    (image / "home").mkdir()
    os.chown(image / "home", 1000, 1001)
    bench.execute(
        DebianPrePkgImgMod("c"),
        configuration('<tree source="s" dest="/home/.config/app" owner="live" mode="0600"/>'),
        inputs={"s": archive(site, tmp_path / "blob")},
    )
    assert modes(image / "home/.config") == (0o755, 1000, 1001)
    assert modes(image / "home/.config/app/bin") == (0o700, 1000, 1001)


@pytest.mark.root
@pytest.mark.parametrize("time", ["inf", "nan", "1e300"])
def test_an_archive_with_a_time_that_no_file_has_is_damaged(
    bench: Any, image: Path, tmp_path: Path, time: str
) -> None:
    head = tarfile.TarInfo("file")
    head.pax_headers = {"mtime": time}
    with tarfile.open(tmp_path / "blob", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(head, io.BytesIO(b""))
    with pytest.raises(CheckpointError, match="is damaged"):
        bench.execute(
            DebianPrePkgImgMod("c"),
            configuration('<tree source="o" dest="/srv"/>'),
            inputs={"o": tmp_path / "blob"},
        )


@pytest.mark.root
@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("../escape", tarfile.REGTYPE, "is not a path in the directory"),
        ("/escape", tarfile.REGTYPE, "is not a path in the directory"),
        ("device", tarfile.CHRTYPE, "is neither file, directory nor link"),
        ("hard", tarfile.LNKTYPE, "etc/passwd is a link to no entry|/etc/passwd is not a path"),
    ],
)
def test_an_archive_of_another_client_cannot_leave_the_image(
    bench: Any, image: Path, tmp_path: Path, name: str, kind: bytes, message: str
) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    (tmp_path / "blob").write_bytes(made.getvalue())
    with pytest.raises(CheckpointError, match=message) as failure:
        bench.execute(
            DebianPrePkgImgMod("c"),
            configuration('<tree source="s" dest="/srv"/>'),
            inputs={"s": tmp_path / "blob"},
        )
    assert "manifest.xml:1" in failure.value.details


@pytest.mark.root
def test_a_file_in_place_of_a_directory_is_an_error_at_the_trees_place(
    bench: Any, image: Path, site: Path, tmp_path: Path
) -> None:
    (image / "srv").write_text("a file")
    with pytest.raises(CheckpointError, match="/srv of the image is not a directory"):
        bench.execute(
            DebianPrePkgImgMod("c"),
            configuration('<tree source="s" dest="/srv"/>'),
            inputs={"s": archive(site, tmp_path / "blob")},
        )


# Units and scripts


@pytest.mark.root
def test_units_are_added_and_enabled_after_the_scripts(
    bench: Any, image: Path, tmp_path: Path
) -> None:
    add_tool(image, "usr/bin/systemctl")
    (tmp_path / "unit").write_text("[Service]\nExecStart=/x\n")
    (tmp_path / "script").write_text("echo script >> /calls\n")
    bench.execute(
        DebianPrePkgImgMod("c"),
        configuration(
            '<unit source="files/app.service"/><unit source="files/t.timer" enable="false"/>'
            '<unit name="ssh"/><unit name="cron.service" enable="false"/><script source="s"/>'
        ),
        inputs={
            "files/app.service": tmp_path / "unit",
            "files/t.timer": tmp_path / "unit",
            "s": tmp_path / "script",
        },
    )
    assert calls(image) == [
        "script",
        "systemctl enable app.service",
        "systemctl enable ssh.service",
        "systemctl disable cron.service",
    ]
    assert modes(image / "etc/systemd/system/app.service") == (0o644, 0, 0)
    assert (image / "etc/systemd/system/t.timer").exists()


@pytest.mark.root
def test_a_failed_script_names_its_line_in_the_manifest(bench: Any, image: Path) -> None:
    with pytest.raises(CheckpointError, match="exit status 3") as failure:
        bench.execute(
            DebianPrePkgImgMod("c"),
            configuration("\n<script>\ntrue\nnonsense\nexit 3</script>"),
        )
    assert "line 4" in failure.value.details or "manifest.xml" in failure.value.brief


def test_an_invalid_manifest_is_not_half_applied() -> None:
    with pytest.raises((ManifestError, Exception)):
        doc_of(configuration('<tree source="s" dest="relative"/>'))
