"""TransferIPS at the boundary of the tool: how it calls a stand-in for pkg(1), and what it refuses. The
repositories are real directories, and one is served over HTTP."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.transfer.ips import TransferIPS
from dcd.checkpoints.transfer.ips_output import InstallProgress, package_lines, unmatched
from dcd.manifest.diagnostics import refuse
from statemachine.errors import CheckpointError, DcdError, InvalidManifest, Unprepared
from store.host.tools import TOOL_PATH
from tests.dcd.checkpoints.depot import Depot, install, publisher, software

pytestmark = pytest.mark.slow


@pytest.fixture
def depot(public_path: Path, bench: Any) -> Depot:
    return Depot(public_path / "depot", bench)


def test_an_image_is_made_with_all_that_the_manifest_says_and_packages_installed(
    depot: Depot, bench: Any
) -> None:
    one = depot.publish("one", "base", "extra")
    two = depot.publish("two", "other")
    image = (
        '<image img_root="{PKG_IMAGE_PATH}"><facet set="false">facet.locale.*</facet>'
        '<facet set="true">facet.locale.de</facet><variant name="variant.arch">i386</variant>'
        '<img_type completeness="partial" zone="true"/>'
        '<property val="true">flush-content-cache-on-success</property></image>'
    )
    publishers = publisher(
        one, more=f'<origin name="{one}"/><mirror name="http://mirror.example.org/"/>'
    ) + publisher(two, "two", attributes='sticky="false" signature_policy="require-signatures"')
    depot.execute(
        TransferIPS("t"),
        software(
            install("gone", action="avoid")
            + install("base", "other", "extra", reject="bad")
            + install("extra", action="uninstall"),
            publishers,
            image,
        ),
    )
    assert depot.calls == [
        "image-create --partial --zone --facet facet.locale.*=False --facet facet.locale.de=True"
        " --variant variant.arch=i386 --set-property flush-content-cache-on-success=true",
        f"set-publisher --sticky -g {one} -g {one} -m http://mirror.example.org/ one",
        f"set-publisher --non-sticky --set-property signature-policy=require-signatures -g {two} two",
        "avoid gone",
        "install --accept --no-index --reject bad base other extra",
        "uninstall --no-index extra",
        "purge-history",
        "contents -H -t file -o action.hash,mode,path",
        "list -H -v --no-refresh",
    ]
    assert (bench.image / "base").exists()
    listing = (bench.root / "media/packages.tsv").read_text()
    assert listing == ("one\tbase\t1.0-1:20260101T000000Z\ntwo\tother\t1.0-1:20260101T000000Z\n")
    assert [artifact.name for artifact in bench.artifacts] == ["packages.tsv"]
    fractions = [report.fraction for report in bench.reports if report.fraction is not None]
    assert fractions == sorted(fractions)
    assert 0.3 < fractions[2] < 0.4  # half of the download
    assert fractions[-1] == 1.0


def test_post_install_publishers_replace_the_images_own_and_need_not_be_reachable(
    depot: Depot, bench: Any
) -> None:
    one = depot.publish("one", "base")
    depot.execute(TransferIPS("t"), software(install("base"), publisher(one)))
    depot.calls_file.unlink()
    elements = software(
        "",
        publisher("http://release.invalid/", "release"),
        '<image action="use_existing"/>',
        name="set",
    )
    checkpoint = TransferIPS("set")
    assert not checkpoint.needs(bench.doc(elements)).network
    depot.execute(checkpoint, elements)
    assert depot.calls == [
        "publisher -H -F tsv",
        "unset-publisher one",
        "set-publisher --sticky -g http://release.invalid/ --no-refresh release",
        "purge-history",
    ]
    state = json.loads((bench.image / "var/pkg/stand-in.json").read_text())
    assert state["publishers"] == {"release": ["http://release.invalid/"]}
    assert (bench.image / "base").exists()


def test_an_existing_image_is_changed(depot: Depot) -> None:
    one = depot.publish("one", "base", "more")
    depot.execute(TransferIPS("t"), software(install("base"), publisher(one)))
    depot.calls_file.unlink()
    image = (
        '<image action="use_existing" index="true"><facet set="false">facet.doc</facet>'
        '<variant name="variant.debug">true</variant><property val="true">p</property></image>'
    )
    execution = (
        '<execution><checkpoint name="t" mod_path="x" checkpoint_class="X"/>'
        '<checkpoint name="u" mod_path="x" checkpoint_class="X"/></execution>'
    )
    before = software(install("base"), publisher(one))
    depot.execute(TransferIPS("u"), before, software(install("more"), "", image, "u"), execution)
    assert depot.calls == [
        # An origin on this host was taken out of the image, and is needed again.
        f"set-publisher -g {one} --no-refresh one",
        "set-property p true",
        "change-variant --accept variant.debug=true",
        "change-facet --accept facet.doc=False",
        "install --accept more",
        "purge-history",
        "contents -H -t file -o action.hash,mode,path",
        "list -H -v --no-refresh",
    ]


def test_packages_that_are_there_already_are_no_failure(depot: Depot) -> None:
    one = depot.publish("one", "base")
    depot.execute(TransferIPS("t"), software(install("base") + install("base"), publisher(one)))
    assert [call for call in depot.calls if call.startswith("install")] == [
        "install --accept --no-index base",
        "install --accept --no-index base",
    ]


def test_a_publisher_without_a_name_is_what_its_origin_publishes(depot: Depot) -> None:
    one = depot.publish("one", "base")
    elements = software(install("base"), publisher(one, name=""))
    depot.execute(TransferIPS("t"), elements)
    assert f"set-publisher --sticky -p {one}" in depot.calls
    assert repositories(TransferIPS("t").external_state(depot.bench.doc(elements))) == [
        f"{one} one"
    ]


def repositories(state: Mapping[str, str]) -> list[str]:
    """What of a state is not this host's own."""
    return [name for name in state if not name.endswith(" of the host")]


def test_an_architecture_that_the_manifest_leaves_to_the_host_is_in_the_key(
    depot: Depot, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = depot.publish("one", "base")
    image = '<image><variant name="variant.arch">i386</variant></image>'
    left = bench.doc(software(install("base"), publisher(one)))
    said = bench.doc(software(install("base"), publisher(one), image=image))

    def states() -> list[Mapping[str, str]]:
        return [dict(TransferIPS("t").external_state(doc)) for doc in (left, said)]

    here = states()
    monkeypatch.setattr("platform.machine", lambda: "sparc64")
    assert [a == b for a, b in zip(here, states(), strict=True)] == [False, True]


def failure(depot: Depot, *elements: str) -> DcdError:
    with pytest.raises(DcdError) as caught:
        depot.execute(TransferIPS("t"), *elements)
    return caught.value


def test_an_unknown_package_is_named_with_its_place(depot: Depot) -> None:
    error = failure(
        depot, software(install("base", "bsae"), publisher(depot.publish("one", "base")))
    )
    assert isinstance(error, CheckpointError)
    assert error.brief == "there is no package bsae to install"
    assert "manifest.xml:2" in error.details


def test_a_dead_origin_fails_before_anything_is_installed(depot: Depot) -> None:
    error = failure(depot, software(install("base"), publisher("/nowhere/repo")))
    assert isinstance(error, Unprepared)
    assert "/nowhere/repo cannot be read" in error.brief
    assert not depot.calls_file.exists()


def test_a_repository_that_changes_meanwhile_fails_the_checkpoint(depot: Depot, bench: Any) -> None:
    one = depot.publish("one", "base")
    doc = bench.doc(software(install("base"), publisher(one)))
    context = bench.context(
        doc,
        external={f"{one} one": "what it was"},
        environment={"PATH": f"{depot.directory}/bin:{TOOL_PATH}"},
    )
    with pytest.raises(CheckpointError, match="changed while"):
        TransferIPS("t").execute(context)


def test_the_key_covers_the_packages_of_each_publisher_and_nothing_else(
    depot: Depot, bench: Any
) -> None:
    one = depot.publish("one", "base")
    doc = bench.doc(software(install("base"), publisher(one)))
    state = TransferIPS("t").external_state(doc)
    attributes = one / "publisher/one/catalog/catalog.attrs"
    content = json.loads(attributes.read_text())
    attributes.write_text(json.dumps({**content, "last-modified": "now"}))
    assert TransferIPS("t").external_state(doc) == state
    depot.publish("one", "base", "new")
    assert TransferIPS("t").external_state(doc) != state


def test_a_repository_over_http_is_asked_again_while_that_may_help(
    bench: Any, mirror: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcd.platform.ips.BACK_OFF_SECONDS", (0.01, 0.01))
    catalog = mirror.directory / "one/catalog/1"
    catalog.mkdir(parents=True)
    (catalog / "catalog.attrs").write_text('{"parts": {"c": {"signature-sha-1": "1"}}}')
    (mirror.directory / "publisher/0").mkdir(parents=True)
    named = bench.doc(software(install("base"), publisher(mirror.uri)))
    path = "/one/catalog/1/catalog.attrs"
    mirror.refusals[path] = [503, 502]
    assert repositories(TransferIPS("t").external_state(named)) == [f"{mirror.uri} one"]
    assert TransferIPS("t").needs(named).network
    mirror.refusals[path] = [-404]
    before = mirror.requests[path]
    with pytest.raises(Unprepared, match="cannot be reached") as caught:
        TransferIPS("t").external_state(named)
    assert "404" in caught.value.details
    assert mirror.requests[path] == before + 1
    mirror.refusals.clear()
    (catalog / "catalog.attrs").write_text("<html>log in first</html>")
    with pytest.raises(Unprepared, match="not as a repository"):
        TransferIPS("t").external_state(named)


def test_a_package_archive_counts_by_its_content(bench: Any, public_path: Path) -> None:
    archive = public_path / "packages.p5p"
    archive.write_bytes(b"1")
    doc = bench.doc(software(install("base"), publisher(f"file://{archive}")))
    state = TransferIPS("t").external_state(doc)
    assert repositories(state) == [f"file://{archive}"]
    archive.write_bytes(b"2")
    assert TransferIPS("t").external_state(doc) != state


def test_keys_are_read_from_where_secrets_are_kept_and_from_nowhere_else(
    depot: Depot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    monkeypatch.setattr("dcd.checkpoints.transfer.ips.DIRECTORIES", (secrets,))
    for name in ("key", "cert"):
        (secrets / name).write_text("not used by a local repository")
    one = depot.publish("one", "base")
    login = f'ssl_key="{secrets}/key" ssl_cert="{secrets}/cert"'
    depot.execute(TransferIPS("t"), software(install("base"), publisher(one, attributes=login)))
    assert f"set-publisher --sticky -k {secrets}/key -c {secrets}/cert -g {one} one" in depot.calls
    elsewhere = f'ssl_key="/etc/shadow" ssl_cert="{secrets}/cert"'
    error = failure(depot, software(install("base"), publisher(one, attributes=elsewhere)))
    assert "may not be read for a secret" in error.brief


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ([], "needs a <software> of type IPS"),
        (['<software name="t" type="DEB"/>'], "needs a <software> of type IPS"),
        ([software(install("a"))], "without publisher"),
        ([software(install("--x"), publisher("/r"))], "'--x' is not an IPS package"),
        ([software(install("a", reject="-r"), publisher("/r"))], "'-r' is not an IPS package"),
        ([software(install("a", action="unpack"), publisher("/r"))], "unpack means nothing"),
        ([software("", publisher("http://u:p@example.org/"))], "must not hold a login"),
        ([software("", publisher("-x"))], "'-x' is not a URI or an absolute path"),
        ([software("", publisher("/r", name="-n"))], "not the name of a publisher"),
        (
            [software("", publisher("/r", name="", more='<origin name="/s"/>'))],
            "has one origin and no mirrors",
        ),
        ([software("", publisher("/r", attributes='ssl_key="/k"'))], "both ssl_key and ssl_cert"),
        ([software("", publisher("/r"), '<image img_root="/etc"/>')], "begins with an area"),
        (
            [software("", publisher("/r"), '<image img_root="{PKG_IMAGE_PATH}/../x"/>')],
            r"a path without \.\.",
        ),
        (
            [software("", publisher("/r"), '<image><property val="true">-k</property></image>')],
            "'-k' is not the name of a facet",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_at_check(
    bench: Any, elements: list[str], message: str
) -> None:
    with pytest.raises(InvalidManifest, match=message):
        refuse(TransferIPS("t").check(bench.doc(*elements)))


def test_an_image_below_a_link_stays_in_its_area(depot: Depot, bench: Any, tmp_path: Path) -> None:
    (bench.image / "zones").symlink_to("/elsewhere")
    one = depot.publish("one", "base")
    image = '<image img_root="{PKG_IMAGE_PATH}/zones"/>'
    depot.execute(TransferIPS("t"), software(install("base"), publisher(one), image))
    assert (bench.image / "elsewhere/base").exists()


def test_arguments_of_the_original_are_known(bench: Any) -> None:
    doc = bench.doc(software(install("a"), publisher("/r")))
    refuse(TransferIPS("t", show_stdout=True).check(doc))
    with pytest.raises(InvalidManifest, match="zone"):
        refuse(TransferIPS("t", zonename="z1").check(doc))


def test_progress_goes_on_through_all_phases_of_a_real_clients_output() -> None:
    reports: list[Any] = []
    progress = InstallProgress(reports.append, False)
    for line in (
        " Startup: Refreshing catalog 'one' ... Done",
        "Planning: Fetching manifests:    0/4000  0% complete",
        "Planning: Fetching manifests: 4000/4000  100% complete",
        "Planning: Planning completed in 8.31 seconds",
        "Download:  1200/4000 items   10.0/20.0MB  50% complete (1.0M/s)",
        "Download: Completed 20.00 MB in 15.44 seconds (1.0M/s)",
        " Actions:    1/8000 actions (Installing new actions)",
        " Actions: 4000/8000 actions (Installing new actions)",
        " Actions: Completed 8000 actions in 3.41 seconds.",
        "Finalize: Updating package state database ... Done",
    ):
        progress.line(line)
    fractions = [round(report.fraction, 2) for report in reports]
    assert fractions == [0.0, 0.02, 0.1, 0.1, 0.35, 0.6, 0.6, 0.77, 0.95, 0.95]
    assert reports[-1].message == "Finalize: Updating package state database ... Done"


def test_lines_that_are_no_phase_are_told_only_when_asked_for() -> None:
    told: dict[bool, list[str]] = {False: [], True: []}
    for show, messages in told.items():
        progress = InstallProgress(_messages_into(messages), show)
        for line in ("Creating Plan", "", "Download: 1/2 items 50%", "Planning: late", "Actions: "):
            progress.line(line)
    assert told[False] == ["Download: 1/2 items 50%", "Planning: late", "Actions:"]
    assert told[True] == ["Creating Plan", *told[False]]


def _messages_into(messages: list[str]) -> Callable[[Any], None]:
    return lambda report: messages.append(report.message)


def test_output_that_is_cut_short_or_strange_is_no_error() -> None:
    assert unmatched("pkg install: something else") == []
    assert unmatched("pattern(s) did not match any allowable packages.  Try\nusing") == []
    assert package_lines(["", "garbage", "pkg://p/n@1 i--"]) == ["p\tn\t1"]
