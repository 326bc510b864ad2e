"""Loading whole manifests: what comes out, what is asked for, and what is stored."""

from hashlib import sha256
from pathlib import Path

import pytest

from dcd.manifest.canonical import restore
from dcd.manifest.diagnostics import ManifestError
from dcd.manifest.doc import (
    DataObjectDict,
    checkpoints_of,
    configurations_for,
    distro,
    software_for,
)
from dcd.manifest.includes import CapturedFile
from dcd.manifest.objects import BootMods, Interface, Password, Repository, Source, User
from dcd.planning.load import Loaded, Settings, load
from statemachine.events import InputFile

ROOT = Path(__file__).resolve().parents[3]
CUD = (ROOT / "tests/data/cud", ROOT.parent / "shared/data/cud")
"""Samples of this project, and the original's own manifests where they are beside the checkout."""

LIVE = """<?xml version="1.0" encoding="UTF-8"?>
<dc>
  <parameter name="hostname" default="debian-live"/>
  <distro name="debian-live" add_timestamp="false">
    <distro_spec><img_params><media_im>
      <boot_mods title="Debian live" timeout="5">
        <boot_entry default_entry="true" insert_at="start">
          <title_suffix>serial console</title_suffix><kernel_args>console=ttyS0,115200</kernel_args>
        </boot_entry>
      </boot_mods>
    </media_im></img_params></distro_spec>
    <software name="transfer" type="DEB">
      <destination><image img_root="{PKG_IMAGE_PATH}" variant="minbase" architecture="amd64"/></destination>
      <source><repository suite="bookworm" signed_by="/usr/share/keyrings/x.gpg"/></source>
      <software_data action="install"><name>linux-image-cloud-amd64</name></software_data>
      <software_data action="uninstall"><name>nano</name></software_data>
    </software>
    <execution stop_on_error="true">
      <checkpoint name="transfer" mod_path="sample_checkpoints" checkpoint_class="Transfer"/>
      <checkpoint name="configure" mod_path="sample_checkpoints" checkpoint_class="Options">
        <args>echo $${HOME} &gt; {PKG_IMAGE_PATH}/etc/motd</args>
        <kwargs><arg name="verbose">false</arg><arg name="script">files/go.sh</arg>
          <arglist name="places"><argitem>/srv/${hostname}</argitem></arglist></kwargs>
      </checkpoint>
    </execution>
    <configuration name="configure" type="user">
      <user name="live" full_name="Live user" groups="sudo" shell="/bin/bash">
        <password hashed="false">live</password></user>
      <user name="root"><password locked="true"/></user>
    </configuration>
    <configuration name="configure" type="network"><interface match="en*" dhcp="true"/></configuration>
    <configuration name="configure" source="files/motd" dest="/etc/motd" mode="0644" owner="root:root"/>
  </distro>
</dc>
"""
KEYRING, SCRIPT, MOTD = "/usr/share/keyrings/x.gpg", "/home/me/files/go.sh", "/home/me/files/motd"


def line_of(part: str) -> int:
    return LIVE[: LIVE.index(part)].count("\n") + 1


@pytest.fixture
def settings(checkpoints: str) -> Settings:
    return Settings(allowed_modules=(checkpoints,))


def sent(content: str, mode: int = 0o644) -> CapturedFile:
    return CapturedFile(sha256(content.encode()).hexdigest(), mode, content.encode)


def live(settings: Settings, text: str = LIVE, **parameters: str) -> Loaded:
    files = {KEYRING: sent("keys"), SCRIPT: sent("go", 0o755), MOTD: sent("hello")}
    return load(text, "/home/me/live.xml", files=files, parameters=parameters, settings=settings)


def test_a_manifest_becomes_typed_objects(settings: Settings) -> None:
    doc = live(settings).doc
    assert distro(doc).name == "debian-live"
    assert distro(doc).add_timestamp is False
    (menu,) = doc.volatile.get_descendants(class_type=BootMods)
    assert menu.timeout == 5
    assert [(e.default_entry, e.title_suffix) for e in menu.children] == [(True, "serial console")]  # type: ignore[attr-defined]
    software = software_for(doc, "transfer")
    assert software is not None
    assert software.names() == ["linux-image-cloud-amd64"]
    assert software.names("uninstall") == ["nano"]
    (source,) = software.get_children(class_type=Source)
    (repository,) = source.get_children(class_type=Repository)
    assert (repository.suite, repository.components, repository.uri) == ("bookworm", "main", None)
    users, network, motd = configurations_for(doc, "configure")
    assert [user.name for user in users.get_children(class_type=User)] == ["live", "root"]
    assert [p.locked for p in users.get_descendants(class_type=Password)] == [False, True]
    assert [i.match for i in network.get_children(class_type=Interface)] == ["en*"]
    assert (motd.source, motd.dest, motd.mode, motd.owner) == (
        "files/motd",
        "/etc/motd",
        "0644",
        "root:root",
    )
    assert motd.origin is not None
    assert (motd.origin.file, motd.origin.line) == (
        "/home/me/live.xml",
        line_of('<configuration name="configure" source='),
    )


def test_parameters_are_replaced_everywhere_and_escapes_undone(settings: Settings) -> None:
    _, configure = checkpoints_of(live(settings, hostname="box").doc)
    assert configure.kwargs["places"] == ["/srv/box"]
    assert configure.args == ("echo ${HOME} > {PKG_IMAGE_PATH}/etc/motd",)


def test_files_that_the_manifest_names_are_asked_for(settings: Settings) -> None:
    loaded = load(LIVE, "/home/me/live.xml", files={KEYRING: sent("keys")}, settings=settings)
    assert [(m.path, m.kind, m.optional, m.line) for m in loaded.missing] == [
        (MOTD, "file", False, line_of('source="files/motd"')),
        (SCRIPT, "file", False, line_of("files/go.sh")),
    ]
    assert live(settings).missing == ()


def test_captured_files_go_by_the_path_that_the_manifest_writes(settings: Settings) -> None:
    assert live(settings).inputs == (
        InputFile(KEYRING, sent("keys").sha256, 0o644),
        InputFile("files/motd", sent("hello").sha256, 0o644),
        InputFile("files/go.sh", sent("go").sha256, 0o755),
    )


def test_a_file_that_is_not_there_is_an_error_at_its_line(settings: Settings) -> None:
    with pytest.raises(ManifestError) as caught:
        load(
            LIVE,
            "/home/me/live.xml",
            files={KEYRING: sent("keys"), SCRIPT: sent("go"), MOTD: None},
            settings=settings,
        )
    (found,) = caught.value.diagnostics
    assert found.line == line_of("files/motd")
    assert found.message == f"there is no file {MOTD}, or it cannot be read"


def test_files_of_the_image_are_not_asked_for(settings: Settings) -> None:
    text = LIVE.replace(
        'source="files/motd"', 'type="sysconf" source="/etc/svc/profile/ns_files.xml"'
    ).replace("files/go.sh", "{PKG_IMAGE_PATH}/go.sh")
    loaded = load(text, "/home/me/live.xml", settings=settings)
    assert [m.path for m in loaded.missing] == [KEYRING]


def test_includes_are_asked_for_before_anything_else_is_said(settings: Settings) -> None:
    text = LIVE.replace(
        "<software_data action=",
        '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="more.xml"/>'
        "<software_data action=",
        1,
    ).replace("stop_on_error", "stop_on_eror")
    loaded = load(text, "/home/me/live.xml", settings=settings)
    assert [(m.path, m.kind, m.line) for m in loaded.missing] == [
        ("/home/me/more.xml", "include", 15)
    ]
    assert loaded.canonical == ""
    with pytest.raises(ManifestError, match="stop_on_eror"):
        load(
            text,
            "/home/me/live.xml",
            files={"/home/me/more.xml": sent("<software_data><name>vim</name></software_data>")},
            settings=settings,
        )


def test_the_canonical_manifest_is_restored_equal(settings: Settings) -> None:
    loaded = live(settings, hostname="box")
    assert restore(loaded.canonical).volatile == loaded.doc.volatile
    assert "${hostname}" not in loaded.canonical
    assert "<parameter" not in loaded.canonical


def test_the_canonical_manifest_is_canonical(settings: Settings) -> None:
    loaded = live(settings)
    assert live(settings, loaded.canonical).canonical == loaded.canonical
    rearranged = LIVE.replace(
        '<distro name="debian-live" add_timestamp="false">',
        "<!-- a comment -->\n\n<distro\n   add_timestamp='false' name='debian-live'>",
    ).replace(' stop_on_error="true"', "")
    assert live(settings, rearranged).canonical == loaded.canonical


def test_a_restored_document_has_the_persistent_part_of_its_layer(settings: Settings) -> None:
    loaded = live(settings)
    loaded.doc.persistent.insert_children(DataObjectDict("iso", {"label": "X"}))
    again = restore(loaded.canonical, loaded.doc.persistent_text())
    assert again == loaded.doc
    assert again.find_path("//iso.label") == ["X"]


def test_a_whole_manifest_of_a_mebibyte_is_loaded_or_refused_quickly(settings: Settings) -> None:
    names = "<name>package-of-a-long-list</name>" * 28_000
    text = LIVE.replace("<name>nano</name>", names)
    assert 900_000 < len(text) < 1024 * 1024
    software = software_for(live(settings, text).doc, "transfer")
    assert software is not None
    assert len(software.names("uninstall")) == 28_000
    with pytest.raises(ManifestError, match="at most 1048576 are read"):
        live(settings, text + " " * 100_000)


def cud_manifests() -> list[tuple[Path, str]]:
    return [
        (directory, path.name)
        for directory in CUD
        for path in sorted((directory / "manifest").glob("dc_*.xml"))
    ]


def load_cud(directory: Path, name: str) -> Loaded:
    """What a client does: send what is asked for until nothing is missing."""
    path = directory / "manifest" / name
    settings = Settings(
        mapped_directories={
            "/usr/share/distro_const/": str(directory / "manifest"),
            "/usr/share/distro_const/profile/": str(directory / "profile"),
        }
    )
    files: dict[str, CapturedFile | None] = {}
    for _ in range(3):
        loaded = load(path.read_text(), str(path), files=files, settings=settings)
        if not loaded.missing:
            return loaded
        for wanted in loaded.missing:
            found = Path(wanted.path)
            files[wanted.path] = sent(found.read_text()) if found.is_file() else None
    raise AssertionError(f"still missing: {loaded.missing}")


@pytest.mark.parametrize(("directory", "name"), cud_manifests())
def test_a_real_manifest_of_the_original_loads_unchanged(directory: Path, name: str) -> None:
    loaded = load_cud(directory, name)
    assert loaded.diagnostics == ()
    assert restore(loaded.canonical).volatile == loaded.doc.volatile
    checkpoints = [spec.name for spec in checkpoints_of(loaded.doc)]
    assert checkpoints[:3] == ["transfer-ips-install", "set-ips-attributes", "pre-pkg-img-mod"]
    boot_archive = software_for(loaded.doc, "ba-init")
    assert boot_archive is not None
    listed = (directory / "manifest/boot_archive_contents_x86.xml").read_text().count("<name>")
    assert len(boot_archive.names()) >= min(listed, 181)


def test_lines_and_files_survive_an_include() -> None:
    loaded = load_cud(CUD[0], "dc_sample_x86.xml")
    image = loaded.doc.find_path("//[@Image#1]")[0]
    assert str(image.origin).endswith("lang_facets.xml:2")  # type: ignore[attr-defined]
    assert len(image.children) == 4  # type: ignore[attr-defined]
