"""OCIImage and OCILayer: container images as skopeo and umoci see them."""

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from dcd.checkpoints.rootfs.oci_image import OCIImage
from dcd.checkpoints.rootfs.oci_layer import OCILayer
from dcd.manifest.diagnostics import refuse
from dcd.manifest.values import BadValue, convert, form_of
from statemachine.errors import CheckpointError, InvalidManifest
from tests.dcd.checkpoints.hostile_tree import EPOCH, fingerprint, plant

pytestmark = pytest.mark.root

STATUS = "Package: dpkg\nStatus: install ok installed\nVersion: 1\nArchitecture: {}\n"


@pytest.fixture
def debian(bench: Any) -> Any:
    """A bench with an image of amd64."""
    add_status(bench.image)
    return bench


def add_status(image: Path, architecture: str = "amd64") -> None:
    (image / "var/lib/dpkg").mkdir(parents=True, exist_ok=True)
    (image / "var/lib/dpkg/status").write_text(STATUS.format(architecture))


def ran(bench: Any, checkpoint: Any) -> None:
    doc = bench.doc()
    refuse(checkpoint.check(doc))
    checkpoint.execute(bench.context(doc, environment={"SOURCE_DATE_EPOCH": str(EPOCH)}))


def made(bench: Any, **arguments: Any) -> Path:
    ran(bench, OCIImage("image", **arguments))
    result: Path = bench.root / bench.artifacts[-1].path
    return result


def run(*argv: Any, **options: Any) -> str:
    return subprocess.run(
        [*map(str, argv)], check=True, capture_output=True, text=True, **options
    ).stdout


def inspected(archive: Path, *options: str, transport: str = "oci-archive") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("skopeo", "inspect", *options, f"{transport}:{archive}"))
    return found


def unpacked(archive: Path, directory: Path) -> Path:
    """The root file system that umoci makes of the archive."""
    layout = directory / "layout"
    layout.mkdir()
    run("tar", "-xf", archive, "-C", layout)
    run("umoci", "unpack", "--image", f"{layout}:latest", directory / "bundle")
    return directory / "bundle/rootfs"


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_skopeo_reads_what_the_container_runs(debian: Any, compression: Any) -> None:
    archive = made(
        debian,
        entrypoint=("/bin/app", "--serve"),
        cmd=("a b",),
        env=("LANG=C.UTF-8", "NAME=a=b"),
        user="7:8",
        workdir="/srv",
        ports=("80/tcp",),
        volumes=("/data",),
        stop_signal="SIGQUIT",
        labels=("org.example.tier=web", "org.opencontainers.image.title=App"),
        compression=compression,
    )
    assert (archive.name, debian.artifacts[-1].format) == ("test.oci.tar", "oci")
    for transport in ("oci-archive", "docker-archive"):
        config = inspected(archive, "--config", transport=transport)
        assert config["architecture"] == "amd64"
        assert config["created"] == "2023-11-14T22:13:20Z"
        assert config["config"] == {
            "Entrypoint": ["/bin/app", "--serve"],
            "Cmd": ["a b"],
            "Env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG=C.UTF-8",
                "NAME=a=b",
            ],
            "User": "7:8",
            "WorkingDir": "/srv",
            "ExposedPorts": {"80/tcp": {}},
            "Volumes": {"/data": {}},
            "StopSignal": "SIGQUIT",
            "Labels": {
                "org.example.tier": "web",
                "org.opencontainers.image.title": "App",
            },
        }
        assert [one["created_by"] for one in config["history"]] == ["dcd image"]


def test_skopeo_copies_it_into_every_kind_of_store(debian: Any, tmp_path: Path) -> None:
    """A copy verifies each blob against its digest."""
    archive = made(debian, tag="registry.example.org/team/app:1.2")
    for source in (f"oci-archive:{archive}", f"docker-archive:{archive}"):
        for target in (
            f"oci:{tmp_path}/oci:t",
            f"dir:{tmp_path}/dir",
            f"docker-archive:{tmp_path}/d",
        ):
            run("skopeo", "copy", "--quiet", source, target)
            (tmp_path / "d").unlink(missing_ok=True)
    with tarfile.open(archive) as tar:
        (docker,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        (index,) = json.load(tar.extractfile("index.json"))["manifests"]  # type: ignore[arg-type]
    assert docker["RepoTags"] == ["registry.example.org/team/app:1.2"]
    assert index["annotations"]["org.opencontainers.image.ref.name"] == "1.2"


def test_umoci_unpacks_the_same_tree(bench: Any, tmp_path: Path) -> None:
    plant(bench.image)
    add_status(bench.image)
    os.utime(bench.image / "var", (EPOCH, EPOCH))
    tree = unpacked(made(bench), tmp_path)
    assert fingerprint(tree, holes=False) == fingerprint(bench.image, holes=False)
    assert tree.stat().st_mtime == bench.image.stat().st_mtime


def test_a_program_of_the_unpacked_image_runs(debian: Any, tmp_path: Path) -> None:
    debian.add_shell()
    tree = unpacked(made(debian, entrypoint=("sh",)), tmp_path)
    said = run("unshare", "--mount", "--root", tree, "/bin/sh", "-c", "echo from inside")
    assert said == "from inside\n"
    assert not any(report.warning for report in debian.reports)


def change(image: Path) -> None:
    """Every kind of change between two layers."""
    shutil.rmtree(image / "etc")
    (image / "etc").write_text("now a file")
    (image / "link").unlink()
    (image / "link").mkdir()
    (image / "link/inner").write_text("now in a directory")
    (image / "usr/bin/su").unlink()
    shutil.rmtree(image / ("d" * 120) / ("e" * 120))
    (image / "usr/bin/wall").chmod(0o755)
    os.link(image / "zeta", image / "omega")
    content = (image / "acl").stat()
    (image / "acl").write_text("ACL")  # the same size and, below, the same time
    os.utime(image / "acl", ns=(content.st_atime_ns, content.st_mtime_ns))


def test_each_layer_is_the_difference_from_those_below(bench: Any, tmp_path: Path) -> None:
    plant(bench.image)
    add_status(bench.image)
    ran(bench, OCILayer("base"))
    change(bench.image)
    (bench.image / "gone").write_text("gone")
    ran(bench, OCILayer("middle"))
    (bench.image / "gone").unlink()
    archive = made(bench)
    config = inspected(archive, "--config")
    assert [one["created_by"] for one in config["history"]] == [
        "dcd base", "dcd middle", "dcd image",
    ]  # fmt: skip
    tree = unpacked(archive, tmp_path)
    assert fingerprint(tree, holes=False) == fingerprint(bench.image, holes=False)
    *_, middle, last = layer_names(archive)
    assert ".wh.gone" in last
    assert "usr/bin/.wh.su" in middle
    assert "omega" in middle
    assert "zeta" in middle, "a hard link needs its other name in the layer"
    assert not any(name.endswith("ping") for name in (*middle, *last)), "it has not changed"
    assert not any(".wh.passwd" in name for name in middle), "its directory is gone"


def layer_names(archive: Path) -> list[list[str]]:
    found = []
    with tarfile.open(archive) as outer:
        (docker,) = json.load(outer.extractfile("manifest.json"))  # type: ignore[arg-type]
        for name in docker["Layers"]:
            with tarfile.open(fileobj=outer.extractfile(name)) as layer:
                found.append([member.name for member in layer])
    return found


def test_without_a_change_there_is_no_other_layer(debian: Any) -> None:
    ran(debian, OCILayer("base"))
    ran(debian, OCILayer("again"))
    archive = made(debian)
    assert len(inspected(archive)["Layers"]) == 1
    assert "nothing has changed since the layer before" in debian.messages()


def test_the_same_tree_gives_the_same_image(bench: Any) -> None:
    results = []
    for number in range(2):
        shutil.rmtree(bench.image)
        bench.image.mkdir()
        shutil.rmtree(bench.root / "oci", ignore_errors=True)
        plant(bench.image)
        add_status(bench.image)
        os.utime(bench.image / "usr", (EPOCH + number, EPOCH + number))
        ran(bench, OCILayer("base"))
        (bench.image / "added").write_text("added")
        results.append(made(bench).read_bytes())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        ({"entrypoint": ("/bin/app",)}, "the image has no program '/bin/app', its entrypoint"),
        ({"cmd": ("nothing",)}, "the image has no program 'nothing', its cmd"),
        ({"entrypoint": ("note",)}, "the image has no program 'note', its entrypoint"),
        ({"user": "alice"}, "the image has no user alice, and the container runs as alice"),
    ],
)
def test_what_keeps_the_container_from_starting_is_warned_of(
    debian: Any, arguments: Any, warning: str
) -> None:
    (debian.image / "usr/bin").mkdir(parents=True)
    (debian.image / "usr/bin/note").write_text("not executable")
    made(debian, **arguments)
    assert [one.message for one in debian.reports if one.warning] == [warning]


def test_a_program_is_found_through_links_of_the_image(debian: Any) -> None:
    (debian.image / "usr/bin").mkdir(parents=True)
    (debian.image / "bin").symlink_to("/usr/bin")
    (debian.image / "usr/bin/app").write_text("#!/bin/sh\n")
    (debian.image / "usr/bin/app").chmod(0o755)
    made(debian, entrypoint=("app",), env=("PATH=/bin",))
    assert not any(report.warning for report in debian.reports)


@pytest.mark.parametrize(
    ("debians", "platform"),
    [("armhf", ("arm", "v7")), ("i386", ("386", None)), ("ppc64el", ("ppc64le", None))],
)
def test_the_architecture_is_named_as_registries_do(
    bench: Any, debians: str, platform: tuple[str, str | None]
) -> None:
    add_status(bench.image, debians)
    config = inspected(made(bench), "--config")
    assert (config["architecture"], config.get("variant")) == platform


def test_an_image_without_packages_needs_its_architecture(bench: Any) -> None:
    (bench.image / "app").write_text("app")
    with pytest.raises(CheckpointError, match="architecture of the image is unknown"):
        made(bench)
    shutil.rmtree(bench.root / "oci")
    assert inspected(made(bench, architecture="arm64"), "--config")["variant"] == "v8"


def test_a_name_that_means_a_removed_file_is_refused(debian: Any) -> None:
    (debian.image / ".wh.thing").write_text("odd")
    with pytest.raises(CheckpointError, match="mean a removed file") as caught:
        made(debian)
    assert ".wh.thing" in caught.value.details
    assert list((debian.root / "media").iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("tag", "Upper:1"),
        ("tag", "notag"),
        ("labels", "novalue"),
        ("env", "1=x"),
        ("ports", "http"),
        ("workdir", "relative"),
        ("compression", "xz"),
    ],
)
def test_a_value_of_the_wrong_form_is_refused(argument: str, text: str) -> None:
    wanted = get_type_hints(OCIImage, include_extras=True)[argument]
    with pytest.raises(BadValue):
        if (form := form_of(wanted)) is not None:
            form.check(text)
        else:
            convert(text, wanted)


@pytest.mark.parametrize("cls", [OCIImage, OCILayer])
def test_a_level_that_the_compression_does_not_have_is_refused(bench: Any, cls: Any) -> None:
    with pytest.raises(InvalidManifest, match="gzip has no level 12"):
        refuse(cls("image", level=12).check(bench.doc()))
