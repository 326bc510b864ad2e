"""WriteSBOM: what its documents say of an image, held against the image's own package database."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema_rs
import pytest

from dcd.checkpoints import sbom
from dcd.checkpoints.sbom import WriteSBOM
from dcd.checkpoints.transfer.ips import TransferIPS
from dcd.manifest.diagnostics import refuse
from dcd.manifest.doc import distro
from dcd.platform import sbom_libraries
from statemachine.errors import CheckpointError, InvalidManifest, Unprepared
from store.host.tools import TOOL_PATH
from store.packages import Packages
from store.resolved import Resolved, ResolvedPackage, encoded
from tests.dcd.checkpoints.depot import Depot, install, publisher, software

pytestmark = pytest.mark.slow

EPOCH = "1764201600"  # 2025-11-27
DEP5 = (
    "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"
    "Files: *\nCopyright: 2026 Nobody\nLicense: {}\n text\n"
)


def stanza(name: str, **fields: str) -> str:
    usual = {
        "Package": name,
        "Status": "install ok installed",
        "Priority": "optional",
        "Section": "misc",
        "Maintainer": "A Team <team@example.org>",
        "Architecture": "amd64",
        "Version": "1:1.0-1",
        "Description": f"{name} of the test",
    }
    named = {key.replace("_", "-"): value for key, value in fields.items()}
    return "".join(f"{key}: {value}\n" for key, value in (usual | named).items() if value)


STATUS = "\n".join(
    [
        stanza("app", Depends="lib (>= 1), mail-agent", Source="app-src (2.0)", Version="2.0+b1"),
        stanza(
            "lib", Multi_Arch="same", Built_Using="linux (= 6.1)", Homepage="https://example.org"
        ),
        stanza(
            "freetext",
            Architecture="all",
            Provides="mail-agent",
            Maintainer="A Team <https://example.org/a team>",
            Homepage="http://a b",
        ),
        stanza("local", Maintainer="", Section="", Homepage="http://[bad"),
        stanza("odd", Maintainer="Jos\udce9 <j@example.org>", Version="3~rc1-0.1"),
        stanza("gone", Status="deinstall ok config-files"),
    ]
)
INSTALLED = {
    ("app", "2.0+b1", "amd64"),
    ("lib", "1:1.0-1", "amd64"),
    ("freetext", "1:1.0-1", "all"),
    ("local", "1:1.0-1", "amd64"),
    ("odd", "3~rc1-0.1", "amd64"),
}


def resolved_package(name: str, version: str, architecture: str) -> ResolvedPackage:
    file = f"{name}_{version.partition(':')[2] or version}_{architecture}.deb"
    digest = hashlib.sha256(file.encode()).hexdigest()
    uri = f"http://deb.example.org/debian/pool/{file}"
    return ResolvedPackage("deb", name, version, architecture, digest, 1000, uri, True)


@pytest.fixture
def image(bench: Any) -> Path:
    """An image with five packages: copyright files in DEP-5's form, as free text, as a link, and none."""
    root: Path = bench.image
    status = root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_bytes(STATUS.encode("utf-8", "surrogateescape"))
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    texts = {
        "app": DEP5.format("GPL-2+ or MIT"),
        "freetext": "This package was debianized by hand. It is free.\n",
        "odd": DEP5.format("my-own-licence or GPL-2+"),
    }
    for name, text in texts.items():
        file = root / f"usr/share/doc/{name}/copyright"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    (root / "usr/share/doc/lib").mkdir()
    (root / "usr/share/doc/lib/copyright").symlink_to("/usr/share/doc/app/copyright")
    return root


WRITE = WriteSBOM("sbom")
RESOLVED = [resolved_package(*each) for each in sorted(INSTALLED)]
Write = Callable[..., dict[str, Any]]


@pytest.fixture
def write(bench: Any, image: Path, tmp_path: Path) -> Write:
    """Write the documents of the image; returns them by kind."""

    def written(
        checkpoint: WriteSBOM = WRITE,
        packages: Sequence[ResolvedPackage] = RESOLVED,
        host_files: tuple[str, ...] = (),
        version: str = "7",
        products: tuple[str, ...] = ("test.iso",),
    ) -> dict[str, Any]:
        doc = bench.doc()
        described = distro(doc)
        described.version, described.supplier = version, "Example <sbom@example.org>"
        listing = tmp_path / "list"
        listing.write_bytes(encoded(Resolved(tuple(packages))))
        bench.artifacts.clear()
        context = bench.context(
            doc,
            environment={"SOURCE_DATE_EPOCH": EPOCH},
            external=checkpoint.external_state(doc),
        )
        context.tmp.mkdir(exist_ok=True)
        digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in products}
        found = replace(context, resolved=(listing,), host_files=host_files, products=digests)
        checkpoint.execute(found)
        return {
            each.format: json.loads((bench.root / each.path).read_text())
            for each in bench.artifacts
        }

    return written


def binaries(document: Any) -> dict[tuple[str, str, str], Any]:
    """The binary Debian packages of a CycloneDX document."""
    return {
        (each["name"], each["version"], each["purl"].partition("arch=")[2].partition("&")[0]): each
        for each in document["components"]
        if each["purl"].startswith("pkg:deb/") and "arch=source" not in each["purl"]
    }


def test_the_packages_are_those_of_dpkg_each_with_its_digest(write: Write, image: Path) -> None:
    query = ["dpkg-query", f"--admindir={image}/var/lib/dpkg", "--show"]
    form = "${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n"
    shown = subprocess.run([*query, f"--showformat={form}"], capture_output=True, check=True)
    rows = [line.split("\t") for line in shown.stdout.decode().splitlines()]
    oracle = {tuple(row[1:]) for row in rows if row[0].strip() == "ii"}
    documents = write()
    found = binaries(documents["cdx"])
    assert set(found) == oracle == INSTALLED
    for identity, component in found.items():
        expected = resolved_package(*identity)
        assert component["hashes"] == [{"alg": "SHA-256", "content": expected.sha256}]
        [origin] = [e for e in component["externalReferences"] if e["type"] == "distribution"]
        assert origin["url"] == expected.uri
    packages = {
        (each["name"], each["versionInfo"]): each
        for each in documents["spdx"]["packages"]
        if each.get("primaryPackagePurpose") == "LIBRARY"
    }
    assert set(packages) == {identity[:2] for identity in INSTALLED}
    for identity in INSTALLED:
        expected = resolved_package(*identity)
        assert packages[identity[:2]]["checksums"] == [
            {"algorithm": "SHA256", "checksumValue": expected.sha256}
        ]
        assert packages[identity[:2]]["downloadLocation"] == expected.uri


def test_licences_come_from_copyright_files_that_machines_can_read(write: Write) -> None:
    documents = write()
    odd = binaries(documents["cdx"])["odd", "3~rc1-0.1", "amd64"]
    [own] = [each["license"] for each in odd["evidence"]["licenses"]]
    assert own["name"].startswith("LicenseRef-my-own-licence-")
    assert own["text"]["content"] == "text"
    expected = {
        "app": "GPL-2.0-or-later OR MIT",
        "lib": "GPL-2.0-or-later OR MIT",
        "freetext": None,
        "odd": f"GPL-2.0-or-later OR {own['name']}",
        "local": None,
    }
    found = {
        name: each["licenses"][0]["expression"] if "licenses" in each else None
        for (name, _, _), each in binaries(documents["cdx"]).items()
    }
    assert found == expected
    spdx = documents["spdx"]
    # Sources have the licences of the packages made from them.
    expected |= {"app-src": expected["app"], "linux": None}
    declared = {
        each["name"]: each["licenseDeclared"]
        for each in spdx["packages"]
        if each["name"] not in ("test", "test.iso")
    }
    assert declared == {name: text or "NOASSERTION" for name, text in expected.items()}
    assert spdx["hasExtractedLicensingInfos"] == [
        {"licenseId": own["name"], "name": "my-own-licence", "extractedText": "text"}
    ]


def test_each_package_has_its_source_and_its_supplier(write: Write) -> None:
    documents = write()
    components = {each["bom-ref"]: each for each in documents["cdx"]["components"]}
    depends = {each["ref"]: each.get("dependsOn", []) for each in documents["cdx"]["dependencies"]}
    sources = {
        each["name"]: {
            (components[ref]["name"], components[ref]["version"])
            for ref in depends[each["bom-ref"]]
            if "arch=source" in ref
        }
        for each in binaries(documents["cdx"]).values()
    }
    assert sources == {
        "app": {("app-src", "2.0")},
        "lib": {("lib", "1:1.0-1"), ("linux", "6.1")},
        "freetext": {("freetext", "1:1.0-1")},
        "local": {("local", "1:1.0-1")},
        "odd": {("odd", "3~rc1-0.1")},
    }
    assert {
        each["name"]: each.get("supplier", {}).get("name") for each in components.values()
    }.items() >= {"app": "A Team", "linux": "A Team", "app-src": "A Team", "local": None}.items()
    generated = {
        each["relatedSpdxElement"]
        for each in documents["spdx"]["relationships"]
        if each["relationshipType"] == "GENERATES"
    }
    assert len(generated) == len(INSTALLED)
    found = {
        each["spdxElementId"]
        for each in documents["spdx"]["relationships"]
        if each["relationshipType"] == "GENERATED_FROM"
    }
    assert generated <= found


def test_the_root_is_the_product_with_all_that_checkers_ask_for(write: Write) -> None:
    documents = write()
    metadata = documents["cdx"]["metadata"]
    root = metadata["component"]
    assert (root["name"], root["version"]) == ("test", "7")
    assert root["supplier"]["name"] == "Example"
    assert metadata["timestamp"] == "2025-11-27T00:00:00+00:00"
    assert metadata["manufacturer"]["contact"] == [{"email": "sbom@example.org"}]
    assert {each["name"] for each in metadata["tools"]["components"]} >= {"dcd", "debsbom"}
    depends = {each["ref"]: each.get("dependsOn", []) for each in documents["cdx"]["dependencies"]}
    assert set(depends[root["bom-ref"]]) == {
        each["bom-ref"] for each in binaries(documents["cdx"]).values()
    }
    references = {each["bom-ref"] for each in documents["cdx"]["components"]} | {root["bom-ref"]}
    assert set(depends) == references
    assert {ref for each in depends.values() for ref in each} <= references
    spdx = documents["spdx"]
    [product] = [each for each in spdx["packages"] if each["name"] == "test"]
    assert product["supplier"] == "Organization: Example (sbom@example.org)"
    contained = {
        each["relatedSpdxElement"]
        for each in spdx["relationships"]
        if each["relationshipType"] == "CONTAINS" and each["spdxElementId"] == product["SPDXID"]
    }
    assert len(contained) == len(INSTALLED)
    assert spdx["creationInfo"]["created"] == "2025-11-27T00:00:00Z"


def test_the_root_has_the_digests_of_what_is_delivered(write: Write) -> None:
    digests = {
        name: hashlib.sha256(name.encode()).hexdigest() for name in ("test.iso", "test (1).raw")
    }
    for names in (("test.iso",), ("test.iso", "test (1).raw", "packages.tsv"), ()):
        documents = write(products=names)
        shown = {name: digests[name] for name in names if name in digests}
        root = documents["cdx"]["metadata"]["component"]
        found = {
            each["url"]: each["hashes"][0]["content"]
            for each in root.get("externalReferences", ())
            if each["type"] == "distribution"
        }
        assert found == {quote(name): digest for name, digest in shown.items()}
        assert ("hashes" in root) == (len(shown) == 1)
        generated = {
            each["spdxElementId"]: each["relatedSpdxElement"]
            for each in documents["spdx"]["relationships"]
            if each["spdxElementId"].startswith("SPDXRef-product-")
            and each["relationshipType"] == "GENERATED_FROM"
        }
        packages = {each["SPDXID"]: each for each in documents["spdx"]["packages"]}
        assert set(generated.values()) <= {"SPDXRef-root"}
        assert {
            packages[name]["packageFileName"]: packages[name]["checksums"][0]["checksumValue"]
            for name in generated
        } == shown


def test_the_documents_are_valid(write: Write) -> None:
    documents = write(host_files=("grub-bios",), products=("test.iso", "test (1).raw"))
    schemas = files("cyclonedx.schema") / "_res"
    names = [f"{name}.SNAPSHOT.schema.json" for name in ("bom-1.6", "spdx", "jsf-0.82")]
    schema, *others = (json.loads((schemas / name).read_text()) for name in names)
    places = (f"http://cyclonedx.org/schema/{name}" for name in names[1:])
    registry = jsonschema_rs.Registry(list(zip(places, others, strict=True)))
    validator = jsonschema_rs.validator_for(schema, registry=registry)
    assert [error.message for error in validator.iter_errors(documents["cdx"])] == []


def test_the_spdx_document_is_valid(write: Write, bench: Any) -> None:
    write(host_files=("grub-bios",), products=("test.iso", "test (1).raw"))
    [file] = [bench.root / each.path for each in bench.artifacts if each.format == "spdx"]
    check = (
        "import sys\n"
        "from spdx_tools.spdx.parser.parse_anything import parse_file\n"
        "from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document\n"
        "for each in validate_full_spdx_document(parse_file(sys.argv[1])):\n"
        "    print(each.validation_message)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", check, file], capture_output=True, text=True, check=True
    )
    assert shown.stdout == ""


def test_files_of_the_host_in_the_image_are_listed(
    write: Write, bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "grub-pc-bin\t2.06-13\tamd64\tgrub2\t2.06-13\tGRUB Maintainers <grub@example.org>"
    monkeypatch.setattr(sbom, "entering_packages", lambda: {"grub-pc-bin": line})
    (tmp_path / "grub-pc-bin").mkdir()
    (tmp_path / "grub-pc-bin/copyright").write_text(DEP5.format("GPL-3+"))
    monkeypatch.setattr(sbom, "_HOST_COPYRIGHT", f"{tmp_path}/{{}}/copyright")
    document = write(host_files=("grub-bios", "grub-efi"))["cdx"]
    grub = binaries(document)["grub-pc-bin", "2.06-13", "amd64"]
    assert "build host" in grub["description"]
    # No transfer could have recorded its digest.
    assert not [each for each in bench.reports if each.warning]
    assert grub["supplier"]["name"] == "GRUB Maintainers"
    assert grub["licenses"][0]["expression"] == "GPL-3.0-or-later"
    assert any(each["name"] == "grub2" for each in document["components"])
    assert ("grub-pc-bin", "2.06-13", "amd64") not in binaries(write()["cdx"])


def test_the_same_image_gives_the_same_bytes_whatever_the_hash_seed(
    write: Write, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set()
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        write()
        found.add(tuple((bench.root / each.path).read_bytes() for each in bench.artifacts))
    assert len(found) == 1
    other = write(version="8")
    [first] = found
    assert json.loads(first[0])["serialNumber"] != other["cdx"]["serialNumber"]
    assert json.loads(first[1])["documentNamespace"] != other["spdx"]["documentNamespace"]


def test_a_package_whose_name_is_a_path_has_nothing_copied_there(image: Path, bench: Any) -> None:
    stanza = "\nPackage: ../../../../../out\nStatus: install ok installed\nVersion: 1\n"
    with (image / "var/lib/dpkg/status").open("a") as file:
        file.write(f"{stanza}Architecture: all\n")
    (image / "out").mkdir()
    (image / "out/copyright").write_text("elsewhere")
    staged = bench.root / "deep/root"
    sbom._stage(image, staged)
    assert (staged / "usr/share/doc/app/copyright").exists()
    assert [*bench.root.rglob("out/copyright")] == [image / "out/copyright"]


def test_packages_without_a_digest_are_named_in_a_warning(write: Write, bench: Any) -> None:
    few = [resolved_package(*each) for each in sorted(INSTALLED) if each[0] != "local"]
    document = write(packages=few)["cdx"]
    assert "hashes" not in binaries(document)["local", "1:1.0-1", "amd64"]
    [warned] = [each.message for each in bench.reports if each.warning]
    assert warned.startswith("1 packages have no digest")
    assert "local 1:1.0-1" in warned


def test_an_image_without_a_package_database_has_no_sbom(
    write: Write, image: Path, bench: Any
) -> None:
    (image / "var/lib/dpkg/status").unlink()
    with pytest.raises(CheckpointError, match="no package database"):
        write()
    assert write(WriteSBOM("sbom", optional=True)) == {}
    [warned] = [each.message for each in bench.reports if each.warning]
    assert "no SBOM was written: the image has no package database" in warned
    assert list(bench.root.glob("media/*")) == []


def test_links_of_the_image_lead_to_no_file_of_the_host(
    write: Write, image: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "copyright"
    secret.write_text(DEP5.format("Zlib"))
    (image / "usr/share/doc/local").symlink_to(tmp_path)
    component = binaries(write()["cdx"])["local", "1:1.0-1", "amd64"]
    assert "licenses" not in component


def test_without_the_extra_there_is_a_warning_and_no_failure(
    write: Write, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sbom_libraries, "LIBRARIES", ("debsbom", "no-such-distribution"))
    optional = WriteSBOM("sbom", optional=True)
    [found] = optional.check(bench.doc())
    assert (found.severity, found.message) == ("warning", "no SBOM will be written for this image")
    assert "pip install 'dcd[sbom]'" in found.suggestion
    with pytest.raises(InvalidManifest, match="the SBOM cannot be written"):
        refuse(WriteSBOM("sbom").check(bench.doc()))
    # The key changes when the extra is installed, so the result is not reused.
    state = optional.external_state(bench.doc())
    assert state["no-such-distribution of the host"] == "not installed"
    assert write(optional) == {}
    assert "no SBOM was written" in bench.messages()
    with pytest.raises(Unprepared, match="cannot be written"):
        write()


def test_only_the_wanted_documents_are_written(write: Write, bench: Any) -> None:
    assert set(write(WriteSBOM("sbom", formats=("spdx",)))) == {"spdx"}
    with pytest.raises(InvalidManifest, match="each once"):
        refuse(WriteSBOM("sbom", formats=("cdx", "cdx")).check(bench.doc()))


def test_ips_packages_are_listed_by_their_fmri(
    bench: Any, public_path: Path, tmp_path: Path
) -> None:
    depot = Depot(public_path / "depot", bench)
    one = depot.publish("one", "base", "licensed")
    doc = bench.doc(software(install("base", "licensed"), publisher(one)))
    checkpoint = TransferIPS("t")
    packages = Packages(tmp_path / "packages")
    packages.prepare()
    lent, named = packages.lend("attempt", "packages"), list[str]()
    tools = {"PATH": f"{depot.directory}/bin:{TOOL_PATH}"}
    external = checkpoint.external_state(doc)
    context = bench.context(doc, external=external, environment=tools)
    checkpoint.execute(replace(context, packages=lent, resolve=named.append))
    packages.take_in(lent)
    rows = [
        line.split("\t") for line in (bench.root / "media/packages.tsv").read_text().splitlines()
    ]
    assert [row[1] for row in rows] == ["base", "licensed"]
    bench.artifacts.clear()
    context = bench.context(bench.doc())
    lists = tuple(packages.path(each) for each in named)
    WriteSBOM("sbom").execute(replace(context, resolved=lists))
    documents = {
        each.format: json.loads((bench.root / each.path).read_text()) for each in bench.artifacts
    }
    for name, row in zip(("base", "licensed"), rows, strict=True):
        fmri = f"pkg://{row[0]}/{name}@{row[2]}"
        [component] = [each for each in documents["cdx"]["components"] if each["name"] == name]
        assert component["purl"].startswith(f"pkg:generic/one/{name}@")
        assert {"name": "ips:fmri", "value": fmri} in component["properties"]
        [package] = [each for each in documents["spdx"]["packages"] if each["name"] == name]
        assert package["supplier"] == "Organization: one"
        [manifest_file] = bench.image.glob(f"var/pkg/publisher/one/pkg/{name}/*")
        manifest = hashlib.sha256(manifest_file.read_bytes()).hexdigest()
        assert component["hashes"] == [{"alg": "SHA-256", "content": manifest}]
        assert package["checksums"][0]["checksumValue"] == manifest
    # The last one has a licence that was accepted.
    accepted = {"name": "ips:accepted-licence", "value": "A licence"}
    assert accepted in component["properties"]
    assert package["licenseComments"] == "Accepted at installation: A licence"


def test_what_writes_the_documents_is_loaded_by_no_other_process() -> None:
    code = (
        "import sys\n"
        "import dcd.serve, dcd.launcher.__main__, dcd.planner.tasks, dcd.worker.attempt\n"
        "import dcd.checkpoints.sbom\n"
        "print([n for n in ('debsbom', 'cyclonedx', 'spdx_tools', 'license_expression')"
        " if n in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
