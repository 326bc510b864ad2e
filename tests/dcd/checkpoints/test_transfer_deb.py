"""TransferDEB: what it refuses at check, what its key covers, and how a transfer fails. Real apt against a
real mirror; one test makes a real minimal system."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.transfer.deb import TransferDEB
from dcd.checkpoints.transfer.deb_progress import Progress
from dcd.manifest.diagnostics import refuse
from dcd.platform import foreign
from dcd.platform.apt import host_codename, host_sources, sources_for
from dcd.platform.apt_root import LISTS, release_files
from statemachine.errors import CheckpointError, DcdError, InvalidManifest, Unprepared
from tests.dcd.checkpoints.conftest import archive
from tests.dcd.checkpoints.debian import SUITE, install, software

pytestmark = pytest.mark.slow

EXECUTION = (
    '<execution><checkpoint name="base" mod_path="x" checkpoint_class="X"/>'
    '<checkpoint name="t" mod_path="x" checkpoint_class="X"/></execution>'
)


@pytest.fixture(autouse=True)
def mounts(request: pytest.FixtureRequest) -> None:
    """As a worker's: what root shows to apt's user is mounted."""
    if os.geteuid() == 0:
        request.getfixturevalue("own_mounts")


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ([], "needs a <software> of type DEB"),
        (['<software name="t" type="IPS"/>'], "needs a <software> of type DEB"),
        ([software(install("a1"), image='variant="huge"')], "'huge' is not a variant"),
        ([software(install("two names"))], "'two names' is not a Debian package"),
        ([software(install("--option"))], "'--option' is not a Debian package"),
        ([software(install("a,b"))], "'a,b' is not a Debian package"),
        ([software()], "nothing to install"),
        (
            ['<software name="t" type="DEB"><software_data action="avoid"/></software>'],
            "avoid means nothing",
        ),
        (
            [software(install("app"), '<repository suite="x" uri="http://u:p@example.org/"/>')],
            "must not hold a login",
        ),
        (
            [
                software(
                    install("app"),
                    '<repository suite="x" uri="http://example.org/a" signed_by="keys/a/k.gpg"/>'
                    '<repository suite="x" uri="http://example.org/a/" signed_by="keys/b/k.gpg"/>',
                )
            ],
            "listed twice, with different keyrings",
        ),
        ([software(image='action="use_existing"')], "nothing to install"),
        (
            [software(install("app"), '<repository source="debs" suite="x"/>')],
            "a directory of packages has no suite",
        ),
        (
            [
                software(install("app"), name="base"),
                software(install("app")),
                EXECUTION,
            ],
            "makes a system where base has made one already",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_at_check(
    bench: Any, elements: list[str], message: str
) -> None:
    with pytest.raises(InvalidManifest, match=message):
        refuse(TransferDEB("t").check(bench.doc(*elements)))


@pytest.mark.parametrize("name", ["app", "libstdc++6", "app=1:1.0-1~x", "app/test", "app:amd64"])
def test_the_forms_of_package_names_are_accepted(bench: Any, name: str) -> None:
    refuse(TransferDEB("t").check(bench.doc(software(install(name)))))


def test_the_network_and_the_listed_sizes_are_needed(bench: Any) -> None:
    data = '<software_data size="5000"><name>app</name></software_data>'
    needs = TransferDEB("t").needs(bench.doc(software(data)))
    assert (needs.network, needs.disk_bytes) == (True, 5000)
    assert "mmdebstrap" in needs.tools


def test_the_key_covers_the_state_of_each_repository(bench: Any, stocked: Any) -> None:
    doc = bench.doc(software(install("app"), SUITE))
    before = TransferDEB("t").external_state(doc)
    assert next(iter(before)) == f"{stocked.uri} test"
    assert TransferDEB("t").external_state(doc) == before
    stocked.publish("test", ("app", ""), ("newer", ""))
    assert TransferDEB("t").external_state(doc) != before


def test_the_key_covers_what_the_manifest_leaves_to_the_host(
    bench: Any, stocked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = bench.doc(software(install("app"), SUITE))
    said = bench.doc(
        software(
            install("app"),
            f'<repository suite="test" uri="{stocked.uri}"/>',
            'variant="custom" architecture="amd64"',
        )
    )

    def changed() -> list[bool]:
        """Whether the state of either differs from what it was first."""
        now = [dict(TransferDEB("t").external_state(doc)) for doc in (left, said)]
        before.append(now)
        return [a != b for a, b in zip(before[0], now, strict=True)]

    before: list[list[dict[str, str]]] = []
    assert changed() == [False, False]
    monkeypatch.setattr(
        "dcd.checkpoints.transfer.deb_architecture.host_architecture", lambda: "arm64"
    )
    assert changed() == [True, False]


def test_the_key_covers_how_the_host_has_a_source_and_the_keyring_that_goes_along(
    bench: Any, stocked: Any, apt_host: Path, tmp_path: Path
) -> None:
    doc = bench.doc(software(install("app"), SUITE))
    keyring = tmp_path / "keyring.gpg"
    keyring.write_bytes(b"one")
    seen = []
    for options, components, content in (
        ("trusted=yes", "main", b"one"),
        ("trusted=no", "main", b"one"),
        (f"trusted=yes signed-by={keyring}", "main", b"one"),
        (f"trusted=yes signed-by={keyring}", "main", b"two"),
    ):
        keyring.write_bytes(content)
        entry = f"deb [{options}] {stocked.uri} test {components}\n"
        (apt_host / "sources.list").write_text(entry)
        seen.append(tuple(sorted(TransferDEB("t").external_state(doc).items())))
    assert len(set(seen)) == len(seen)


def test_a_suite_that_the_host_does_not_have_is_refused_before_anything_runs(
    bench: Any, stocked: Any
) -> None:
    with pytest.raises(Unprepared, match="no source for suite nosuch"):
        bench.execute(TransferDEB("t"), software(install("app"), '<repository suite="nosuch"/>'))


@pytest.mark.root
def test_a_system_is_made_in_an_image_without_one_and_changed_in_one_that_has_it(
    bench: Any, stocked: Any
) -> None:
    error = failure(bench, software(install("app"), SUITE, 'action="use_existing"'))
    assert "no system" in error.brief
    status = bench.image / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text("Package: base\nStatus: install ok installed\nVersion: 1\n\n")
    error = failure(bench, software(install("app"), SUITE))
    assert "a system in the image already" in error.brief
    assert "use_existing" in error.resolution


def test_an_architecture_that_this_host_cannot_run_is_refused_before_anything_is_fetched(
    bench: Any, stocked: Any
) -> None:
    element = software(install("app"), SUITE, 'variant="custom" architecture="s390x"')
    if foreign.obstacle("s390x") is None:
        pytest.skip("this host can run programs of s390x")
    doc = bench.doc(element)
    with pytest.raises(Unprepared) as caught:
        TransferDEB("t").execute(bench.context(doc))
    assert "cannot make an image for s390x" in caught.value.brief
    assert "capabilit" not in str(caught.value).lower()
    assert stocked.requests == {}


def failure(bench: Any, *elements: str) -> DcdError:
    with pytest.raises(DcdError) as caught:
        bench.execute(TransferDEB("t"), *elements)
    return caught.value


def test_an_unknown_package_is_named_with_its_place_and_a_likely_name(
    bench: Any, stocked: Any
) -> None:
    error = failure(bench, software(install("app", "libb"), SUITE))
    assert error.brief == "there is no package libb"
    assert "manifest.xml:2: libb" in error.details
    assert f"{stocked.uri} test main" in error.details
    assert error.resolution == "did you mean <name>lib</name> instead of libb?"


def test_a_package_that_is_never_to_be_installed_is_not(bench: Any, stocked: Any) -> None:
    never = '<software_data action="uninstall"><name>lib</name></software_data>'
    error = failure(bench, software(install("app") + never, SUITE))
    assert "lib" in error.details
    error = failure(bench, software(install("lib") + never, SUITE))
    assert "lib is listed under uninstall" in error.resolution


def test_packages_that_cannot_be_installed_are_explained_by_apt(bench: Any, stocked: Any) -> None:
    error = failure(bench, software(install("broken"), SUITE))
    assert error.brief == "apt cannot install what the manifest lists"
    assert "nowhere" in error.details


def test_a_version_that_does_not_exist_is_explained_by_apt(bench: Any, stocked: Any) -> None:
    error = failure(bench, software(install("app=2.0"), SUITE))
    assert "Version '2.0' for 'app' was not found" in error.details


def test_a_mirror_that_loses_a_package_is_named(bench: Any, stocked: Any) -> None:
    stocked.refusals["/pool/lib_1.0_amd64.deb"] = [-503]
    error = failure(bench, software(install("app"), SUITE))
    assert isinstance(error, Unprepared)
    assert f"{stocked.uri}pool/lib_1.0_amd64.deb" in error.brief
    assert "503" in error.brief


def test_a_repository_that_changes_meanwhile_stops_the_transfer(bench: Any, stocked: Any) -> None:
    checkpoint, doc = TransferDEB("t"), bench.doc(software(install("app"), SUITE))
    before = checkpoint.external_state(doc)
    stocked.publish("test", ("app", ""), ("newer", ""))
    with pytest.raises(CheckpointError, match="changed while") as caught:
        checkpoint.execute(bench.context(doc, external=before))
    assert "resume" in caught.value.resolution
    assert not list(bench.image.rglob("*.deb"))


def test_a_keyring_of_the_manifest_is_the_captured_one(
    bench: Any, stocked: Any, tmp_path: Path
) -> None:
    (tmp_path / "blob").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    repository = f'<repository suite="test" uri="{stocked.uri}" signed_by="keys/mine.gpg"/>'
    with pytest.raises(CheckpointError, match="does not trust"):
        bench.execute(
            TransferDEB("t"),
            software(install("app"), repository),
            inputs={"keys/mine.gpg": tmp_path / "blob"},
        )
    assert list((bench.root / "tmp").iterdir()) == []


def test_progress_only_goes_forward_and_ends_near_the_end() -> None:
    reports: list[Any] = []
    progress = Progress(reports.append)
    for line in (
        "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
        "Need to get 2 MB of archives.",
        "Get:1 http://example.org test/main amd64 app amd64 1.0 [1 B]",
        "Get:2 http://example.org test/main amd64 lib amd64 1.0 [1 B]",
        "I: downloading packages with apt...",
        "Need to get 0 B/2 MB of archives.",
        "I: extracting archives...",
        "I: installing essential packages...",
        "I: installing remaining packages inside the chroot...",
        "Unpacking lib (1.0) ...",
        "Unpacking app (1.0) ...",
        "Setting up lib (1.0) ...",
        "Setting up app (1.0) ...",
        "Setting up extra (1.0) ...",
        "I: cleaning package lists and apt cache...",
    ):
        progress.line(line)
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert 0.95 < fractions[-1] < 1.0
    assert reports[-1].message == "cleaning up"


@pytest.mark.system
@pytest.mark.root
@pytest.mark.timeout(900)
def test_a_minimal_system_is_made_and_is_nobodys_copy(
    bench: Any, own_mounts: None, tmp_path: Path
) -> None:
    suite = host_codename()
    try:
        sources = sources_for(host_sources(), suite, ["main"])
    except Unprepared as error:
        pytest.skip(f"this host has no apt sources: {error.brief}")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        local_package(tmp_path / name, f"local-{name}")
    first, second = (
        archive(tmp_path / name, tmp_path / f"{name}.tar", "packages")
        for name in ("first", "second")
    )
    bench.execute(
        TransferDEB("t"),
        software(
            '<pin package="nano-tiny" pin="version *" priority="-1"/>'
            '<dpkg_option option="path-exclude=/usr/share/doc/*"/>'
            "<debconf>local-first local-first/answer string of the manifest</debconf>"
            + install("zstd", "local-first")
            + '<software_data action="uninstall"><name>nano</name></software_data>',
            f'<repository suite="{suite}" components="main"/><repository source="first"/>',
            image='variant="minbase"',
        ),
        inputs={"first": first},
    )
    image = bench.image
    assert {"apt", "zstd", "local-first"} <= listed(bench)
    # What the manifest says applied before the first package, and stays; the local repository does not.
    assert (image / "local-first").read_text() == "of the manifest\n"
    assert not list((image / "usr/share/doc").glob("*"))
    assert (image / "etc/apt/preferences.d/dcd").read_text() == (
        "Package: nano-tiny\nPin: version *\nPin-Priority: -1\n"
    )
    assert "path-exclude" in "".join(
        file.read_text() for file in (image / "etc/dpkg/dpkg.cfg.d").iterdir()
    )
    assert not list((image / "var/cache/apt").glob("dcd-*"))
    assert "copy:" not in (image / "etc/apt/sources.list.d/dcd.sources").read_text()
    assert (
        subprocess.run(["chroot", image, "zstd", "--version"], capture_output=True).returncode == 0
    )
    names = [path.name for path in (image / "etc/apt/sources.list.d").iterdir()]
    assert names == ["dcd.sources"]
    assert f"URIs: {sources[0].uri}" in (image / "etc/apt/sources.list.d/dcd.sources").read_text()
    assert_nothing_of_the_host(image)
    assert not (image / "etc/hostname").exists()
    assert not os.path.lexists(image / "etc/resolv.conf")
    assert bench.reports[-1].fraction == 1.0

    # Somebody configures it; then more packages are installed into it, and one is taken away.
    (image / "etc/hostname").write_text("kept\n")
    (image / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (image / "etc/debconf.conf").write_text((image / "etc/debconf.conf").read_text() + "# mine\n")
    nodes = sorted(path.name for path in (image / "dev").iterdir())
    bench.execute(
        TransferDEB("t"),
        software(
            '<dpkg_option option="force-confold"/>'
            "<debconf>local-second local-second/answer string again</debconf>"
            + install("ed", "local-second")
            + '<software_data action="uninstall"><name>zstd</name></software_data>',
            f'<repository suite="{suite}" components="main"/><repository source="second"/>',
            image='action="use_existing"',
        ),
        inputs={"second": second},
    )
    assert (image / "local-second").read_text() == "again\n"
    assert (image / "etc/dpkg/dpkg.cfg.d/dcd").read_text() == "force-confold\n"
    assert "ed" in listed(bench)
    assert "zstd" not in listed(bench)
    assert not (image / "usr/bin/zstd").exists()
    assert (image / "etc/hostname").read_text() == "kept\n"
    assert str((image / "etc/resolv.conf").readlink()).endswith("stub-resolv.conf")
    assert "# mine" in (image / "etc/debconf.conf").read_text()
    assert sorted(path.name for path in (image / "dev").iterdir()) == nodes
    assert not (image / "usr/sbin/policy-rc.d").exists()
    assert_nothing_of_the_host(image)


def local_package(directory: Path, name: str) -> None:
    """Build a package that writes the answer of debconf to a file of its name."""
    root = directory / name
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: dcd <dcd@example.org>\n"
        "Depends: debconf\nDescription: packages beside a manifest\n"
    )
    (root / "DEBIAN/templates").write_text(
        f"Template: {name}/answer\nType: string\nDescription: what to write\n"
    )
    script = root / "DEBIAN/postinst"
    script.write_text(
        "#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\n"
        f'db_get {name}/answer\necho "$RET" >/{name}\n'
    )
    script.chmod(0o755)
    subprocess.run(["dpkg-deb", "--build", root, directory], check=True, capture_output=True)


def listed(bench: Any) -> set[str]:
    """The names in the list of packages that was delivered last."""
    artifact = bench.artifacts[-1]
    assert artifact.name == "packages.tsv"
    lines = (bench.root / artifact.path).read_text().splitlines()
    assert all(line.count("\t") == 2 for line in lines)
    return {line.split("\t")[0] for line in lines}


def assert_nothing_of_the_host(image: Path) -> None:
    for left in ("apt.conf.d/00dcd", "preferences.d/00dcd", "auth.conf.d/00dcd.conf"):
        assert not (image / "etc/apt" / left).exists()
    assert release_files(image / LISTS) == {}
    assert not list((image / "var/cache/apt/archives").glob("*.deb"))
    for partial in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
        found = (image / partial).stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, 0, 0o755)
    assert str(image) not in Path("/proc/self/mounts").read_text()
