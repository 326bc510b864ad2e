"""What TransferIPS leaves in the image and in the log, and what it does when a repository fails."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.transfer.ips import TransferIPS
from statemachine.errors import CheckpointError, DcdError
from store.packages import Packages
from tests.dcd.checkpoints.depot import Depot, install, publisher, software

pytestmark = pytest.mark.slow


@pytest.fixture
def depot(public_path: Path, bench: Any) -> Depot:
    return Depot(public_path / "depot", bench)


def failure(depot: Depot, *elements: str) -> DcdError:
    with pytest.raises(DcdError) as caught:
        depot.execute(TransferIPS("t"), *elements)
    return caught.value


def listed(bench: Any) -> list[str]:
    """The names in the list of packages that was delivered last."""
    last = [artifact for artifact in bench.artifacts if artifact.name == "packages.tsv"][-1]
    text = (bench.root / last.path).read_text()
    return [line.split("\t")[1] for line in text.splitlines()]


def test_the_list_follows_a_package_that_is_taken_away(depot: Depot, bench: Any) -> None:
    one = depot.publish("one", "base", "licensed")
    depot.execute(TransferIPS("t"), software(install("base", "licensed"), publisher(one)))
    assert listed(bench) == ["base", "licensed"]
    away = software(
        install("licensed", action="uninstall"), "", '<image action="use_existing"/>', "u"
    )
    depot.execute(TransferIPS("u"), away)
    assert listed(bench) == ["base"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes the bits away")
def test_files_get_the_set_id_bits_that_their_packages_give_them(depot: Depot, bench: Any) -> None:
    one = depot.publish("one", "su", "base")
    depot.execute(TransferIPS("t"), software(install("su", "base"), publisher(one)))
    assert (bench.image / "su").stat().st_mode & 0o7777 == 0o4755
    assert (bench.image / "base").stat().st_mode & 0o7777 == 0o755
    assert "set-id bits of 1 file" in bench.messages()


def test_the_image_says_nothing_of_the_host_that_made_it(depot: Depot, bench: Any) -> None:
    one = depot.publish("one", "base")
    depot.execute(TransferIPS("t"), software(install("base"), publisher(one)))
    configuration = (bench.image / "var/pkg/pkg5.image").read_text()
    for trace in (str(one), "6ad2f2d6", "/x/ssl", "2026"):
        assert trace not in configuration
    assert "[authority_one]" in configuration
    assert "prefix = one" in configuration
    assert list((bench.image / "var/pkg/ssl").iterdir()) == []
    assert f"not left in the image: {one}" in bench.messages()


def test_verify_compares_the_image_with_its_packages(depot: Depot) -> None:
    one = depot.publish("one", "base")
    depot.execute(TransferIPS("t", verify=True), software(install("base"), publisher(one)))
    assert "verify" in depot.calls
    depot.stumble("verify", "ERROR: file: bin/su: mode: 0555 should be 4555", 1)
    again = software(
        install("base", action="avoid"), "", '<image action="use_existing"/>', name="u"
    )
    with pytest.raises(CheckpointError, match="differs from its packages") as caught:
        depot.execute(TransferIPS("u", verify=True), again)
    assert "0555 should be 4555" in caught.value.details


UNSERVED = (
    "Transport errors encountered while trying to contact repository.\n"
    "1: http protocol error: Unknown error code: {code} reason: {reason}\nURL: 'http://x/file/1/a'"
)


@pytest.mark.parametrize("command", ["install", "set-publisher"])
def test_a_repository_that_stumbles_is_asked_again(
    depot: Depot, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("dcd.checkpoints.transfer.ips_pkg.BACK_OFF_SECONDS", (0.01, 0.01, 0.01))
    one = depot.publish("one", "base")
    depot.stumble(command, UNSERVED.format(code=503, reason="Service Unavailable"), 3)
    depot.execute(TransferIPS("t"), software(install("base"), publisher(one)))
    assert sum(call.startswith(command) for call in depot.calls) == 4


@pytest.mark.parametrize(
    ("text", "brief", "remedy", "tries"),
    [
        (UNSERVED.format(code=503, reason="Service Unavailable"), "does not serve", "try again", 4),
        (
            "Framework error: code: E_COULDNT_CONNECT (7) reason: x",
            "does not serve",
            "try again",
            4,
        ),
        ("Transfer from 'http://x/' failed: 99.", "does not serve", "try again", 4),
        (UNSERVED.format(code=404, reason="Not Found"), "does not have the content", "pkgrepo", 1),
        (
            "The policy for one requires signatures to be present but no signature was found in pkg://one/base.",
            "not signed as",
            "signature_policy",
            1,
        ),
        ("No matching version of base can be installed", "cannot install", "list of packages", 1),
    ],
)
def test_what_a_failed_install_needs_is_said_by_its_cause(
    depot: Depot,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    brief: str,
    remedy: str,
    tries: int,
) -> None:
    monkeypatch.setattr("dcd.checkpoints.transfer.ips_pkg.BACK_OFF_SECONDS", (0.01, 0.01, 0.01))
    one = depot.publish("one", "base")
    depot.stumble("install", text, -1)
    error = failure(depot, software(install("base"), publisher(one)))
    assert brief in error.brief
    assert remedy in error.resolution
    assert text.splitlines()[0] in error.details
    assert sum(call.startswith("install") for call in depot.calls) == tries


def test_the_log_has_pkgs_commands_and_its_lines_once(
    depot: Depot, bench: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    one = depot.publish("one", "base")
    depot.execute(TransferIPS("t", show_stdout=True), software(install("base"), publisher(one)))
    log = capfd.readouterr().err
    assert f"# pkg -R {bench.image} install --accept --no-index base\n" in log
    assert log.count("Planning: Solver setup ... Done") == 1
    told = [report for report in bench.reports if report.message.startswith("Planning")]
    assert told
    assert all(report.logged for report in told)


@pytest.mark.parametrize(
    ("origin", "paths"),
    [
        ("/srv/repo", ["/srv/repo"]),
        ("file:///srv/a.p5p", ["/srv/a.p5p"]),
        ("http://pkg.example.org/", []),
    ],
)
def test_repositories_of_this_host_are_declared(bench: Any, origin: str, paths: list[str]) -> None:
    needs = TransferIPS("t").needs(bench.doc(software(install("base"), publisher(origin))))
    assert [str(each.path) for each in needs.reads] == paths


def test_keys_ids_and_seeds_of_one_machine_do_not_stay(depot: Depot, bench: Any) -> None:
    one = depot.publish("one", "base")
    depot.execute(TransferIPS("t"), software(install("base"), publisher(one)))
    machines = ("etc/ssh/ssh_host_rsa_key", "var/lib/systemd/random-seed", "etc/hostid")
    for name in (*machines, "etc/machine-id"):
        (bench.image / name).parent.mkdir(parents=True, exist_ok=True)
        (bench.image / name).write_text("of one machine")
    elements = software(
        "", publisher("http://release.invalid/"), '<image action="use_existing"/>', "u"
    )
    depot.execute(TransferIPS("u"), elements)
    assert [name for name in machines if (bench.image / name).exists()] == []
    assert (bench.image / "etc/machine-id").read_text() == ""


def test_accepted_licences_are_listed_and_recorded(
    depot: Depot, bench: Any, tmp_path: Path
) -> None:
    packages = Packages(tmp_path / "packages")
    packages.prepare()
    lent = packages.lend("attempt", "digests")
    one = depot.publish("one", "base", "licensed", "licensed2")
    elements = software(install("base", "licensed", "licensed2"), publisher(one))
    depot.execute(TransferIPS("t"), elements, packages=lent)
    version = "1.0-1:20260101T000000Z"
    assert (bench.root / "media/licences.tsv").read_text() == (
        f"licensed\t{version}\tA licence\nlicensed2\t{version}\tIts\n"
    )
    assert [each.name for each in bench.artifacts] == ["packages.tsv", "licences.tsv"]
    assert "accepted 2 licences, which licences.tsv lists" in bench.messages()
    packages.take_in(lent)
    lists = [each for each in packages.stored() if not each.sha256.startswith("content-")]
    recorded = packages.resolved(lists[0].sha256).packages
    assert {each.name: each.accepted for each in recorded} == {
        "base": (), "licensed": ("A licence",), "licensed2": ("Its",),
    }  # fmt: skip


def test_without_a_licence_to_accept_there_is_no_list(depot: Depot, bench: Any) -> None:
    one = depot.publish("one", "base")
    depot.execute(TransferIPS("t"), software(install("base"), publisher(one)))
    assert [each.name for each in bench.artifacts] == ["packages.tsv"]


@pytest.mark.parametrize(
    "change",
    ['<facet set="true">facet.doc</facet>', '<variant name="variant.debug">true</variant>'],
)
def test_the_list_is_made_again_after_a_change_of_facets_or_variants(
    depot: Depot, bench: Any, change: str
) -> None:
    one = depot.publish("one", "base")
    before = software(install("base"), publisher(one))
    depot.execute(TransferIPS("t"), before)
    (bench.root / "media/packages.tsv").write_text("old\n")
    image = f'<image action="use_existing">{change}</image>'
    depot.execute(TransferIPS("u"), software("", publisher(one), image, "u"))
    assert listed(bench) == ["base"]


def test_two_builds_make_the_same_image(depot: Depot, bench: Any) -> None:
    one = depot.publish("one", "base", "su")
    images = []
    for _ in range(2):
        shutil.rmtree(bench.image)
        bench.image.mkdir()
        depot.execute(TransferIPS("t"), software(install("base", "su"), publisher(one)))
        files = (path for path in bench.image.rglob("*") if path.is_file())
        images.append({path: path.read_bytes() for path in files if "file" not in path.parts})
    assert images[0] == images[1]
