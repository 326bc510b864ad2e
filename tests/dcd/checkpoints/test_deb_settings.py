"""Pins, options of dpkg, answers and packages beside the manifest: what is accepted, and what apt gets."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.transfer.deb import TransferDEB
from dcd.checkpoints.transfer.deb_local import _index, _unpack
from dcd.checkpoints.transfer.deb_settings import leave_dpkg_options, leave_pins, settings_of
from dcd.manifest.objects import Software
from statemachine.errors import CheckpointError, DcdError
from tests.dcd.checkpoints.conftest import archive, doc_of
from tests.dcd.checkpoints.debian import install, software

PIN = '<pin package="a b*" pin="release n=x-backports" priority="990"/>'


def of(inner: str) -> Software:
    (found,) = doc_of(software(inner)).volatile.get_descendants(class_type=Software)
    return found


@pytest.mark.parametrize(
    "inner",
    [
        '<pin package="a;b" pin="release a=b" priority="1"/>',
        '<pin package="a" pin="release" priority="1"/>',
        '<pin package="a" pin="release a=b\nPackage: *" priority="1"/>',
        '<pin package="a" pin="release a=b" priority="high"/>',
        '<dpkg_option option="pre-invoke=reboot"/>',
        '<dpkg_option option="root=/"/>',
        '<dpkg_option option="--force-confold"/>',
        "<debconf>postfix postfix/mailer</debconf>",
        "<debconf>postfix postfix/mailer choice x</debconf>",
        "<debconf>a a/b boolean yes</debconf>",
    ],
)
def test_what_apt_dpkg_or_debconf_would_misread_is_refused(inner: str) -> None:
    with pytest.raises(DcdError):
        of(inner)


def test_a_debconf_without_answers_is_refused_at_check() -> None:
    found = list(TransferDEB("t").check(doc_of(software(install("app") + "<debconf/>"))))
    assert [each.message for each in found] == ["there are no answers in this <debconf>"]


def test_answers_may_have_comments_and_continued_lines() -> None:
    found = of("<debconf># mine\n\na a/b select one\na a/c multiselect x, \\\n  y\n</debconf>")
    assert settings_of(found, Path("/nonexistent")).answers.count("\n") >= 4


def test_a_later_transfer_keeps_the_pins_of_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/apt-get").touch()
    leave_pins(tmp_path, settings_of(of(PIN), tmp_path))
    other = PIN.replace("990", "1001")
    settings = settings_of(of(PIN + other), tmp_path)
    assert settings.pins.count("Package: a b*") == 2
    leave_pins(tmp_path, settings)
    assert (tmp_path / "etc/apt/preferences.d/dcd").read_text() == settings.pins


def test_options_of_dpkg_are_added_once(tmp_path: Path) -> None:
    settings = settings_of(of('<dpkg_option option="force-confold"/>'), tmp_path)
    leave_dpkg_options(tmp_path, settings)
    leave_dpkg_options(tmp_path, settings)
    assert (tmp_path / "etc/dpkg/dpkg.cfg.d/dcd").read_text() == "force-confold\n"


def test_each_of_them_changes_the_base_that_transfers_share() -> None:
    def base(inner: str) -> str:
        doc = doc_of(software(inner + install("app"), image='variant="minbase"'))
        found = TransferDEB("t").base(doc)
        assert found is not None
        return found.decides

    parts = (PIN, '<dpkg_option option="force-confold"/>', "<debconf>a a/b string c</debconf>")
    assert len({base(inner) for inner in ("", *parts)}) == 4


def test_packages_beside_the_manifest_are_indexed_by_their_own_fields(tmp_path: Path) -> None:
    root = tmp_path / "debs/sub/app"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: app\nVersion: 1.0\nArchitecture: all\nMaintainer: a\nDescription: x\n"
    )
    subprocess.run(["dpkg-deb", "--build", root, tmp_path / "debs/sub"], check=True)
    directory = tmp_path / "repository"
    directory.mkdir()
    _unpack(archive(tmp_path / "debs", tmp_path / "tar", "packages"), directory)
    release = _index(directory)
    packages = (directory / "Packages").read_text()
    assert "Package: app\n" in packages
    assert "Filename: ./sub/app_1.0_all.deb\n" in packages
    assert release == _index(directory), "the same packages have the same index"


def test_a_file_that_is_no_package_is_named_with_the_manifests_line(
    bench: Any, stocked: Any, tmp_path: Path, own_mounts: None
) -> None:
    (tmp_path / "debs").mkdir()
    (tmp_path / "debs/broken.deb").write_text("no package")
    with pytest.raises(CheckpointError, match=r"broken\.deb is no Debian package") as failure:
        bench.execute(
            TransferDEB("t"),
            software(install("app"), '<repository suite="test"/><repository source="debs"/>'),
            inputs={"debs": archive(tmp_path / "debs", tmp_path / "tar", "packages")},
        )
    assert "manifest.xml:1" in failure.value.details
    assert not list(bench.image.rglob("dcd-1"))
