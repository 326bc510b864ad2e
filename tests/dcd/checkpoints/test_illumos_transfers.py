"""TransferP5I, TransferSVR4 and AIPublishPackages, at the boundary of their tools: stand-ins for pkg(7) and
pkgadd(8) record how they are called."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from cli.starters import STARTERS
from dcd.checkpoints.interface import Checkpoint
from dcd.checkpoints.recorded import record_values
from dcd.checkpoints.rootfs.archive import RootfsArchive
from dcd.checkpoints.transfer.ips import TransferIPS
from dcd.checkpoints.transfer.p5i import TransferP5I, packages_of
from dcd.checkpoints.transfer.publish import AIPublishPackages
from dcd.checkpoints.transfer.svr4 import TransferSVR4
from dcd.manifest.diagnostics import refuse
from statemachine.errors import CheckpointError, InvalidManifest, Unprepared
from tests.dcd.checkpoints.depot import Depot, install, publisher, software

P5I = {
    "Version": 1,
    "publishers": [
        {"name": "", "alias": None, "packages": ["base", "extra"], "repositories": []},
    ],
}


@pytest.fixture
def depot(public_path: Path, bench: Any) -> Depot:
    return Depot(public_path / "depot", bench)


def p5i_software(origin: object, more: str = "") -> str:
    return (
        f'<software name="p" type="P5I"><destination><image action="use_existing"/></destination>'
        f'<source><publisher><origin name="{origin}"/></publisher>{more}</source></software>'
    )


def execute(depot: Depot, checkpoint: Checkpoint, *elements: str) -> None:
    depot.execute(checkpoint, *elements)  # type: ignore[arg-type]


def test_the_packages_of_a_p5i_file_are_installed_from_the_image_s_publishers(
    depot: Depot, bench: Any
) -> None:
    one = depot.publish("one", "base", "extra", "first")
    execute(depot, TransferIPS("t"), software(install("first"), publisher(one)))
    file = depot.directory / "wanted.p5i"
    file.write_text(json.dumps(P5I))
    before = len(depot.calls)
    execute(depot, TransferP5I("p"), p5i_software(file))
    assert depot.calls[before:][0] == "install --accept --no-index base extra"
    assert "purge-history" in depot.calls[before:]


def test_further_publishers_of_the_software_replace_those_of_the_image(depot: Depot) -> None:
    one = depot.publish("one", "first")
    two = depot.publish("two", "base", "extra")
    execute(depot, TransferIPS("t"), software(install("first"), publisher(one)))
    file = depot.directory / "wanted.p5i"
    file.write_text(json.dumps(P5I))
    before = len(depot.calls)
    execute(depot, TransferP5I("p"), p5i_software(file, publisher(two, "two")))
    assert depot.calls[before:][1:3] == [
        "unset-publisher one",
        f"set-publisher --sticky -g {two} two",
    ]


def test_the_key_covers_the_p5i_file(depot: Depot, bench: Any) -> None:
    file = depot.directory / "wanted.p5i"
    file.write_text(json.dumps(P5I))
    doc = bench.doc(p5i_software(file))
    first = TransferP5I("p").external_state(doc)
    file.write_text(json.dumps({**P5I, "publishers": []}))
    assert TransferP5I("p").external_state(doc) != first
    with pytest.raises(CheckpointError, match="changed after the checkpoint was started"):
        TransferP5I("p").execute(bench.context(doc, external=first))


def test_a_p5i_file_that_is_not_there_is_reported_before_anything_runs(
    depot: Depot, bench: Any
) -> None:
    doc = bench.doc(p5i_software(depot.directory / "nosuch.p5i"))
    with pytest.raises(Unprepared, match="cannot be read"):
        TransferP5I("p").external_state(doc)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"<xml/>", "JSONDecodeError"),
        (b"[]", "TypeError"),
        (b'{"Version": 2}', "version 2"),
        (b'{"Version": 1, "publishers": []}', "names no packages"),
        (b'{"Version": 1, "publishers": [{"packages": ["--root=/"]}]}', "is no package"),
        (b'{"Version": 1, "publishers": [{"packages": ["a\\u0000b"]}]}', "is no package"),
        (b'{"Version": 1, "publishers": [{"packages": ["pkg:/../../a"]}]}', "is no package"),
        (b"[" * 100_000, "RecursionError"),
    ],
)
def test_a_file_that_is_no_p5i_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        packages_of(content)
    assert why in caught.value.details


def test_packages_may_name_their_publisher_themselves() -> None:
    data = {"Version": 1, "publishers": [{"name": "a", "packages": ["pkg:/x@1", "pkg://b/y", "z"]}]}
    assert packages_of(json.dumps(data).encode()) == ["pkg:/x@1", "pkg://b/y", "pkg://a/z"]


def test_software_without_a_p5i_file_is_refused(bench: Any) -> None:
    text = (
        '<software name="p" type="P5I"><source><dir path="{PKG_IMAGE_PATH}"/></source></software>'
    )
    with pytest.raises(InvalidManifest, match="names no p5i file"):
        refuse(TransferP5I("p").check(bench.doc(text)))


# System V


@pytest.fixture
def tool(tmp_path: Path, bench: Any) -> Callable[..., Any]:
    """A context whose tools record their calls; `calls` of it are those."""

    def context(doc: Any, *names: str) -> Any:
        for name in names:
            (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n')
            (tmp_path / name).chmod(0o755)
        return bench.context(doc, environment={"PATH": f"{tmp_path}:/usr/bin:/bin"})

    return context


def svr4(origin: object, data: str) -> str:
    return (
        '<software name="s" type="SVR4"><destination><dir path="{PKG_IMAGE_PATH}"/></destination>'
        f'<source><publisher><origin name="{origin}"/></publisher></source>{data}</software>'
    )


def test_packages_of_system_v_are_added_and_removed_in_order(
    tool: Callable[..., Any], bench: Any, tmp_path: Path, public_path: Path
) -> None:
    packages = public_path / "packages/SUNWx"
    packages.mkdir(parents=True)
    (packages / "pkginfo").write_text("PKG=SUNWx\n")
    doc = bench.doc(
        svr4(packages.parent, install("SUNWx", "SUNWy") + install("SUNWold", action="uninstall"))
    )
    checkpoint = TransferSVR4("s")
    assert list(checkpoint.check(doc)) == []
    assert checkpoint.runs_host_code
    before = checkpoint.external_state(doc)
    (packages / "pkgmap").write_text(": 1 1\n")
    assert checkpoint.external_state(doc) != before
    checkpoint.execute(tool(doc, "pkgadd", "pkgrm"))
    admin = bench.root / "tmp/admin"
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"pkgadd -n -a {admin} -d {packages.parent} -R {bench.image} SUNWx SUNWy",
        f"pkgrm -n -a {admin} -R {bench.image} SUNWold",
    ]


@pytest.mark.parametrize(
    ("element", "why"),
    [
        (svr4("http://pkg.example.org/", install("x")), "no packages to install from"),
        (svr4("/srv/x", install("x", action="avoid")), "avoid means nothing"),
        (svr4("/srv/x", install("-R")), "is no package"),
    ],
)
def test_what_makes_no_sense_for_system_v_is_refused(bench: Any, element: str, why: str) -> None:
    with pytest.raises(InvalidManifest, match=why):
        refuse(TransferSVR4("s").check(bench.doc(element)))


@pytest.mark.root
def test_files_that_are_closed_to_others_are_not_read(bench: Any, public_path: Path) -> None:
    file = public_path / "closed.p5i"
    file.write_text(json.dumps(P5I))
    file.chmod(0o600)
    with pytest.raises(Unprepared, match="cannot be read by everybody"):
        TransferP5I("p").external_state(bench.doc(p5i_software(file)))
    with pytest.raises(Unprepared, match="cannot be read by everybody"):
        TransferSVR4("s").external_state(bench.doc(svr4(file, install("x"))))


# Publication


def test_the_image_is_published_and_delivered_as_an_archive(
    tool: Callable[..., Any], bench: Any, tmp_path: Path
) -> None:
    (bench.image / "x").write_text("x")
    doc = bench.doc()
    context = tool(doc, "pkgrepo", "pkgsend", "pkgrecv")
    (tmp_path / "pkgsend").write_text(
        f'#!/bin/sh\necho "pkgsend $*" >> {tmp_path}/calls\n'
        "[ $1 = generate ] && echo file x path=x\n"
        f'for last; do :; done; [ -f "$last" ] && cat "$last" > {tmp_path}/manifest; exit 0\n'
    )
    (tmp_path / "pkgrecv").write_text('#!/bin/sh\necho archive > "$5"\n')
    record_values(
        context, "install_service", {"auto_install": "5.11-0.175", "service_name": "dev-i386-175"}
    )
    AIPublishPackages("ai").execute(context)
    repository = bench.root / "tmp/repository"
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"pkgrepo create {repository}",
        f"pkgrepo -s {repository} add-publisher ai-image",
        f"pkgrepo -s {repository} set publisher/prefix=ai-image",
        f"pkgsend generate {bench.image}",
        f"pkgsend -s {repository} publish -d {bench.image} {bench.root}/tmp/image.p5m",
    ]
    assert (tmp_path / "manifest").read_text().splitlines() == [
        "file x path=x",
        "set name=pkg.fmri value=pkg://ai-image/install-image/solaris-auto-install@5.11-0.175",
        "set name=variant.arch value=i386",
        "set name=com.oracle.install.service_name value=dev-i386-175 variant.arch=i386",
    ]
    assert [each.name for each in bench.artifacts] == ["test.p5p"]


@pytest.mark.parametrize("place", ["file:///srv/repo", "/srv/repo"])
def test_a_repository_in_the_files_of_the_host_is_refused(bench: Any, place: str) -> None:
    checkpoint = AIPublishPackages("ai", pkg_repo=place)
    (found,) = checkpoint.check(bench.doc())
    assert "no repository in the files of the build host" in found.message


def test_the_publisher_of_a_repository_may_have_either_name(bench: Any) -> None:
    checkpoint = AIPublishPackages("ai", pkg_repo="http://pkg.example.org/", publisher="mine")
    assert checkpoint.needs(bench.doc()).network
    assert list(checkpoint.check(bench.doc())) == []
    both = AIPublishPackages("ai", prefix="a", publisher="b")
    assert [each.message for each in both.check(bench.doc())] == ["ai: publisher and prefix differ"]


def test_the_manifest_of_dcctl_init_makes_an_archive(depot: Depot, bench: Any) -> None:
    """Its checkpoints one after the other, with a repository in the place of the publisher's."""
    manifest = etree.fromstring(STARTERS["illumos"])
    (given,) = manifest.iter("software")
    names = [name.text for name in given.iter("name")]
    place = depot.publish("example.org", *names)
    next(given.iter("origin")).set("name", str(place))
    steps = [(each.get("name"), each.get("type")) for each in manifest.iter("checkpoint")]
    assert steps == [("transfer", "TransferIPS"), ("archive", "RootfsArchive")]

    depot.execute(TransferIPS("transfer"), etree.tostring(given, encoding="unicode"))
    bench.execute(RootfsArchive("archive"))

    (archive,) = (bench.root / "media").glob("*.tar.zst")
    listed = ["tar", "--zstd", "-tf", archive]
    found = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {f"./{name}" for name in names} <= {f"./{name.removeprefix('./')}" for name in found}
