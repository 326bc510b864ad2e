"""TransferIPS at the boundary of the tool: a stand-in `pkg` records how it is called and answers as the real
one was seen to (RESEARCH of pkg(7): exit statuses, phases, what a dead origin does). Repositories are real
directories, and one is served over HTTP."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.transfer.ips import TransferIPS
from dcd.checkpoints.transfer.ips_output import InstallProgress, package_lines, unmatched
from dcd.manifest.diagnostics import refuse
from dcd.platform.tools import TOOL_PATH
from statemachine.errors import CheckpointError, DcdError, InvalidManifest, Unprepared

STAND_IN = """#!{python}
import getopt, json, pathlib, sys
calls = pathlib.Path({calls!r})
with calls.open("a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
opts, rest = getopt.getopt(sys.argv[1:], "R:")
root = dict(opts).get("-R")
command, words = rest[0], rest[1:]
LONG = ["full", "partial", "zone", "facet=", "variant=", "set-property=", "sticky", "non-sticky",
        "no-refresh", "accept", "no-index", "reject="]
options, operands = [], words
if command != "set-property":
    options, operands = getopt.gnu_getopt(words, "g:m:p:k:c:HF:vt:o:", LONG)

trouble = pathlib.Path({calls!r} + "-trouble")
if trouble.exists() and command in ("install", "set-publisher", "verify"):
    pending = json.loads(trouble.read_text())
    if pending["command"] == command and pending["times"] != 0:
        trouble.write_text(json.dumps({{**pending, "times": pending["times"] - 1}}))
        print("Planning: Fetching manifests: 0/2  0% complete")
        print(f"pkg {{command}}: {{pending['text']}}", file=sys.stderr)
        sys.exit(1)

def fail(status, text):
    print(f"pkg {{command}}: {{text}}", file=sys.stderr)
    sys.exit(status)

if command == "image-create":
    root = operands[0]
state_file = pathlib.Path(root) / "var/pkg/stand-in.json"
if command == "image-create":
    state_file.parent.mkdir(parents=True)
    state = {{"publishers": {{}}, "installed": {{}}, "avoided": []}}
elif not state_file.exists():
    fail(1, f"{{root}} is not an image")
else:
    state = json.loads(state_file.read_text())

def packages(origin):
    path = pathlib.Path(origin) / "packages"
    if not path.exists():
        fail(1, f"Unable to contact valid package repository: {{origin}}")
    return path.read_text().split()

status = 0
if command == "set-publisher":
    origins = [value for option, value in options if option in ("-g", "-p")]
    if ("--no-refresh", "") not in options:
        for origin in origins:
            packages(origin)
    name = operands[0] if operands else pathlib.Path(origins[0]).name
    state["publishers"][name] = origins
elif command == "unset-publisher":
    for name in operands:
        del state["publishers"][name]
elif command == "publisher":
    for name, origins in state["publishers"].items():
        for origin in origins:
            print("\\t".join([name, "true", "false", "true", "origin", "online", origin, "-"]))
elif command == "install":
    known = {{p: name for name, origins in state["publishers"].items() for o in origins for p in packages(o)}}
    unknown = [p for p in operands if p not in known]
    if unknown:
        print("Planning: Solver setup ... Do")
        fail(1, "The following pattern(s) did not match any allowable packages.  Try\\nusing a different"
                " matching pattern, or refreshing publisher information:\\n\\n\\t"
                + "\\n\\t".join(unknown) + "\\n")
    if ("--accept", "") not in options:
        fail(6, "licence not accepted")
    new = [p for p in operands if p not in state["installed"]]
    print("Startup: Refreshing catalog 'one' ... Done")
    print("Planning: Solver setup ... Done (0.1s)")
    print("Download:  50/100 items   1.0/2.0MB  50% complete (1.0M/s)")
    print("Actions: 10/10 actions (Installing new actions)")
    print("Finalize: Updating image state ... Done")
    for package in new:
        state["installed"][package] = known[package]
        (pathlib.Path(root) / package).write_text("content")
        (pathlib.Path(root) / package).chmod(0o755)
    status = 0 if new else 4
elif command == "uninstall":
    for package in operands:
        if package not in state["installed"]:
            fail(1, "The following pattern(s) did not match any packages installed:\\n\\n\\t" + package)
        del state["installed"][package]
        (pathlib.Path(root) / package).unlink()
elif command == "avoid":
    state["avoided"] += operands
elif command == "contents":
    for package in state["installed"]:
        print(f"{{'4755' if package == 'su' else '0644'}}  {{package}}")
    status = 0 if state["installed"] else 1
elif command == "list":
    for package, publisher in state["installed"].items():
        print(f"pkg://{{publisher}}/{{package}}@1.0-1:20260101T000000Z        i--")
    status = 0 if state["installed"] else 1
state_file.write_text(json.dumps(state))
sections = [
    f"[authority_{{name}}]\\nprefix = {{name}}\\nuuid = 6ad2f2d6-1b1c-11ef-8d3c-000000000000\\n"
    f"last_uuid = Thu Jan  1 00:00:00 2026\\norigins = {{origins}}\\nmirrors = []\\n"
    f"origin_info = {{[dict(uri=o, proxy='') for o in origins]}}\\n"
    "ssl_key = /x/ssl/1\\nssl_cert = /x/ssl/2\\n"
    for name, origins in state["publishers"].items()
]
keys = state_file.parent / "ssl"
keys.mkdir(exist_ok=True)
(keys / "1").write_text("a key of the host")
(state_file.parent / "pkg5.image").write_text("[image]\\nversion = 3\\n\\n" + "\\n".join(sections))
sys.exit(status)
"""


class Depot:
    """The stand-in, what it was called with, and repositories of packages."""

    def __init__(self, directory: Path, bench: Any) -> None:
        self.directory = directory
        self.bench = bench
        self.calls_file = directory / "calls"
        (directory / "bin").mkdir(parents=True)
        script = directory / "bin/pkg"
        script.write_text(STAND_IN.format(python=sys.executable, calls=str(self.calls_file)))
        script.chmod(0o755)

    def publish(self, publisher: str, *packages: str, repository: str = "") -> Path:
        """Make or change a repository (named for its publisher) that has these packages."""
        path = self.directory / (repository or publisher)
        catalog = path / "publisher" / publisher / "catalog"
        catalog.mkdir(parents=True, exist_ok=True)
        (path / "packages").write_text(" ".join(packages))
        signature = hashlib.sha1(" ".join(packages).encode()).hexdigest()
        attributes = {"parts": {"catalog.base.C": {"signature-sha-1": signature}}}
        (catalog / "catalog.attrs").write_text(json.dumps(attributes))
        return path

    def execute(self, checkpoint: TransferIPS, *elements: str) -> None:
        """As the engine would, with the stand-in on PATH."""
        doc = self.bench.doc(*elements)
        refuse(checkpoint.check(doc))
        environment = {"PATH": f"{self.directory}/bin:{TOOL_PATH}"}
        external = checkpoint.external_state(doc)
        context = self.bench.context(doc, external=external, environment=environment)
        checkpoint.execute(context)

    def stumble(self, command: str, text: str, times: int) -> None:
        """Have the next calls of a subcommand fail with that text (-1: all of them)."""
        trouble = {"command": command, "text": text, "times": times}
        Path(f"{self.calls_file}-trouble").write_text(json.dumps(trouble))

    @property
    def calls(self) -> list[str]:
        """Each call as a line; the image's root, and the option for it, are left out."""
        root = str(self.bench.image)
        lines = [json.loads(line) for line in self.calls_file.read_text().splitlines()]
        return [" ".join(w for w in words if w not in ("-R", root)) for words in lines]


@pytest.fixture
def depot(public_path: Path, bench: Any) -> Depot:
    return Depot(public_path / "depot", bench)


def install(*names: str, action: str = "install", reject: str = "") -> str:
    listed = "".join(f"<name>{name}</name>" for name in names)
    rejected = f"<reject>{reject}</reject>" if reject else ""
    return f'<software_data action="{action}">{listed}{rejected}</software_data>'


def publisher(origin: object, name: str = "one", more: str = "", attributes: str = "") -> str:
    named = f'name="{name}"' if name else ""
    return f'<publisher {named} {attributes}><origin name="{origin}"/>{more}</publisher>'


def software(data: str, publishers: str = "", image: str = "<image/>", name: str = "t") -> str:
    source = f"<source>{publishers}</source>" if publishers else ""
    return (
        f'<software name="{name}" type="IPS"><destination>{image}</destination>{source}\n'
        f"{data}</software>"
    )


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
        "contents -H -t file -o mode,path",
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
        "contents -H -t file -o mode,path",
        "list -H -v --no-refresh",
    ]


def listed(bench: Any) -> list[str]:
    """The names in the list of packages that was delivered last."""
    text = (bench.root / bench.artifacts[-1].path).read_text()
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
    with pytest.raises(CheckpointError, match="not as its packages say") as caught:
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
        ([software(install("a"))], "has no publisher"),
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


def test_a_dry_run_calls_nothing(depot: Depot, bench: Any) -> None:
    context = bench.context(bench.doc(software(install("a", "b"), publisher("/r"))))
    TransferIPS("t").execute(context, dry_run=True)
    assert bench.messages() == "would make an image and install 2 listed packages"
    assert not depot.calls_file.exists()


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
