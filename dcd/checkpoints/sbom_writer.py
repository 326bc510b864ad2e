"""The program that writes the documents of an SBOM; `dcd.checkpoints.sbom` starts it.

Its input is one JSON value: the distribution, a directory with the package database and copyright files of a
Debian image, the IPS packages of another, digests and origins of packages, packages of the host. It writes
`sbom.cdx` and `sbom.spdx` into the named directory, and `sbom.gaps`: the packages without a digest.

debsbom makes both documents from dpkg's database. What it leaves out is added to their JSON: the licence of
each package (`sbom_licences`), the origin of each package, names of files as BSI TR-03183-2
asks for, a path from the root to each package, IPS packages. The same input gives the same bytes: all lists
are sorted, the time is the build's, and the serial number derives from the document's own content.
"""

import gc
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlparse
from uuid import NAMESPACE_URL, UUID, uuid5

from debsbom.bomwriter import BomWriter
from debsbom.dpkg.package import BinaryPackage, Dependency, SourcePackage
from debsbom.generate.generate import Debsbom
from debsbom.sbom import SUPPLIER_PATTERN, SBOMType
from debsbom.util.checksum import ChecksumAlgo
from packageurl import PackageURL

from dcd.checkpoints.sbom_ips import ips_component, ips_package
from dcd.checkpoints.sbom_licences import Licence, licence_of
from store.host.plain import as_plain, from_plain

Json = Any
Licences = Callable[[], Mapping[str, Licence]]
"""Finds the licences of packages by their purls."""
_EMAIL = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*@\w+([.-]\w+)*")
"""RFC 5322, dot-atom."""
_URL = re.compile(r"https?://(\w[\w-]*\.)+\w{2,}(:\d+)?([/?#][\w.~:/?#@!$&'()*+,;=%-]*)?", re.ASCII)
"""RFC 3986."""
_ROOT = "root"
_PROPERTY = "bsi:component:"
"""The names of properties in the taxonomy of BSI TR-03183-2."""


def main(order: Json) -> None:
    """Write the ordered documents."""
    directory = Path(order["directory"])
    maker = _maker(order)
    known = {
        (each["name"], each["version"], each["architecture"]): each for each in order["resolved"]
    }
    binaries = sorted(
        (each for each in maker.packages if each.is_binary()),
        key=lambda each: (each.name, each.architecture or ""),
    )
    listed = {
        each.purl(maker.base_distro_vendor).to_string(): known.get(_identity(each))
        for each in binaries
    }

    def licences() -> dict[str, Licence]:
        return {
            package.purl(maker.base_distro_vendor).to_string(): licence
            for package, licence in _licences(binaries, maker.packages, order).items()
        }

    def write(kind: str, licences: Licences) -> None:
        make = {"cdx": _cyclonedx, "spdx": _spdx}[kind]
        (directory / f"sbom.{kind}").write_text(_text(make(maker, order, listed, licences)))

    if len(order["formats"]) == 1:
        write(order["formats"][0], licences)
    else:
        _write_both(write, licences, directory / "sbom.licences")
    hosts = {line.split("\t")[0] for line in order["host"]}
    lacking = (each for each in binaries if not each.checksums and each.name not in hosts)
    gaps = [f"{each.name} {each.version}" for each in lacking]
    gaps += [f"{each['name']} {each['version']}" for each in order["ips"] if not each["sha256"]]
    (directory / "sbom.gaps").write_text(json.dumps(gaps))


def _write_both(
    write: Callable[[str, Licences], None],
    licences: Callable[[], dict[str, Licence]],
    file: Path,
) -> None:
    """Write the two documents in two processes. The one in SPDX takes less time, so its process reads the
    licences for both, and hands them over in `file`."""
    reading, writing = os.pipe()
    with file.open("w+") as shared:

        def write_spdx() -> None:
            found = licences()
            json.dump(as_plain(found), shared)
            shared.flush()
            os.close(writing)
            write("spdx", lambda: found)

        def wait_for_licences() -> dict[str, Licence]:
            os.read(reading, 1)
            shared.seek(0)
            return from_plain(dict[str, Licence], json.load(shared))

        other = _started(write_spdx)
        os.close(writing)
        try:
            write("cdx", wait_for_licences)
        finally:
            failed = os.waitpid(other, 0)[1] != 0
            os.close(reading)
            if failed:
                raise SystemExit("a document could not be written")


def _started(work: Callable[[], None]) -> int:
    """Do the work in a process of its own. Returns its id."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        if status:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)


def _maker(order: Json) -> Debsbom:
    """debsbom with the packages of the image and of the host, complete."""
    maker = Debsbom(
        distro_name=_ROOT,
        root=order["root"] or "/nonexistent",
        distro_supplier=order["supplier"],
        distro_version=order["version"],
        distro_arch=order["architecture"],
        base_distro_vendor=order["vendor"],
        cdx_serialnumber=UUID(int=0),
        spdx_namespace=urlparse("urn:none"),
        timestamp=datetime.fromtimestamp(order["epoch"], UTC),
    )
    if order["root"]:
        maker.scan()
    known = {
        (each["name"], each["version"], each["architecture"]): each for each in order["resolved"]
    }
    release = f"{order['vendor']}-{order['release']}" if order["release"] else None
    for package in maker.packages:
        package.distro = release
        # Packages have there what their maintainers like; the libraries stop at what is no URL.
        package.maintainer = _maintainer(package.maintainer or "")
        if not _URL.fullmatch(package.homepage or ""):
            package.homepage = None
        if package.is_binary() and (found := known.get(_identity(package))):
            package.checksums[ChecksumAlgo.SHA256SUM] = found["sha256"]
    _name_suppliers(maker.packages)
    there = {each.name for each in maker.packages if each.is_binary()}
    hosts = [_of_host(line) for line in order["host"]]
    maker.packages |= {each for each in hosts if each.name not in there}
    maker.packages |= {source for each in hosts if (source := each.source_package())}
    return maker


def _identity(package: BinaryPackage) -> tuple[str, str, str]:
    return package.name, str(package.version), package.architecture


def _name_suppliers(packages: Iterable[BinaryPackage | SourcePackage]) -> None:
    """Give sources without a maintainer that of the binary packages made from them."""
    makers: dict[str, str] = {}
    binaries = sorted((each for each in packages if each.is_binary()), key=lambda each: each.name)
    for package in binaries:
        used = [*package.built_using, *package.static_built_using]
        for source in ([package.source] if package.source else []) + used:
            makers.setdefault(source.name, package.maintainer or "")
    for package in packages:
        if not package.maintainer:
            package.maintainer = makers.get(package.name) or None


def _maintainer(text: str) -> str | None:
    """`NAME <ADDRESS>`, or only the name when there is no e-mail address."""
    name, _, address = text.partition("<")
    address = address.rstrip("> ")
    known = _EMAIL.fullmatch(address)
    shown = name.strip() or address
    return f"{shown} <{address}>" if shown and known else shown or None


def _of_host(line: str) -> BinaryPackage:
    name, version, architecture, source, source_version, maintainer = line.split("\t")
    return BinaryPackage(
        name=name,
        version=version,
        architecture=architecture,
        maintainer=maintainer,
        source=Dependency(source, None, ("=", source_version), arch="source"),
        description="Files of this package of the build host are part of the image's boot loader.",
    )


def _licences(
    binaries: Iterable[BinaryPackage],
    packages: Iterable[BinaryPackage | SourcePackage],
    order: Json,
) -> dict[BinaryPackage | SourcePackage, Licence]:
    """The licences of the packages that have one. A source has that of the first of its binary packages."""
    found: dict[BinaryPackage | SourcePackage, Licence] = {}
    of_sources: dict[str, Licence] = {}
    hosts = {line.split("\t")[0] for line in order["host"]}
    for package in binaries:
        root = Path(order["host_root"] if package.name in hosts else order["root"])
        licence = licence_of(root / f"usr/share/doc/{package.name}/copyright")
        if licence is not None:
            found[package] = licence
            if source := package.source_package():
                of_sources.setdefault(source.name, licence)
    for package in packages:
        if package.is_source() and (licence := of_sources.get(package.name)):
            found[package] = licence
    return found


# CycloneDX


def _cyclonedx(
    maker: Debsbom,
    order: Json,
    listed: Mapping[str, Json],
    licences: Licences,
) -> Json:
    # Here, since the process of the other document does without it.
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    bom = maker.generate(SBOMType.CycloneDX)
    document = json.loads(
        make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    )
    components = document.setdefault("components", [])
    licence_of_purl = licences()
    for component in components:
        component["group"] = order["vendor"]
        purl = component["purl"]
        _complete(component, listed.get(purl), licence_of_purl.get(purl))
    components += [ips_component(each) for each in order["ips"]]
    root = document["metadata"]["component"]
    references = sorted(each["bom-ref"] for each in components if not _is_source(each))
    before = root["bom-ref"]
    root |= {"name": order["name"], "bom-ref": f"image:{order['name']}"}
    _add_products(root, order["products"])
    dependencies = {each["ref"]: each for each in document.get("dependencies", [])}
    dependencies.pop(before, None)
    for each in (root["bom-ref"], *(each["bom-ref"] for each in components)):
        dependencies.setdefault(each, {"ref": each})
    dependencies[root["bom-ref"]]["dependsOn"] = references
    document["dependencies"] = [dependencies[name] for name in sorted(dependencies)]
    document["compositions"] = [
        # Packages with all that they depend on; files of scripts and archives are not listed.
        {"aggregate": "incomplete", "assemblies": [root["bom-ref"]]},
        {"aggregate": "complete", "dependencies": references},
    ]
    metadata = document["metadata"]
    metadata["manufacturer"] = _entity(order["supplier"])
    metadata["lifecycles"] = [{"phase": "build"}]
    metadata["tools"]["components"].append(
        {"type": "application", "name": "dcd", "version": order["tool_version"]}
    )
    document.pop("serialNumber", None)
    document = _sorted(document)
    document["serialNumber"] = f"urn:uuid:{_uuid(document)}"
    return document


def _add_products(root: Json, products: Mapping[str, str]) -> None:
    """The files that the image is delivered as. Source: BSI TR-03183-2, the hash of the deployable."""
    hashes = {name: [{"alg": "SHA-256", "content": sha256}] for name, sha256 in products.items()}
    if hashes:
        root.setdefault("externalReferences", []).extend(
            {"type": "distribution", "url": quote(name), "hashes": found}
            for name, found in hashes.items()
        )
    if len(hashes) == 1:
        root["hashes"] = next(iter(hashes.values()))


def _complete(component: Json, package: Json, licence: Licence | None) -> None:
    """Add what debsbom does not have."""
    if licence is not None:
        component["licenses"] = [{"expression": licence.expression, "acknowledgement": "declared"}]
    if licence is not None and licence.references:
        # An expression has no place for the texts of its references.
        component["evidence"] = {
            "licenses": [
                {
                    "license": {
                        "name": each.identifier,
                        "text": {"contentType": "text/plain", "content": each.text},
                    }
                }
                for each in licence.references
            ]
        }
    if _is_source(component):
        return
    version = component["version"].replace(":", "%3a")
    architecture = PackageURL.from_string(component["purl"]).qualifiers.get("arch", "all")
    name = f"{component['name']}_{version}_{architecture}.deb"
    kinds = {
        "filename": name,
        "executable": "non-executable",
        "archive": "archive",
        "structured": "structured",
    }
    component.setdefault("properties", []).extend(
        {"name": f"{_PROPERTY}{name}", "value": value} for name, value in kinds.items()
    )
    if package and package["uri"]:
        component.setdefault("externalReferences", []).append(
            {
                "type": "distribution",
                "url": package["uri"],
                "hashes": [{"alg": "SHA-256", "content": package["sha256"]}],
            }
        )


def _is_source(component: Json) -> bool:
    return bool(PackageURL.from_string(component["purl"]).qualifiers.get("arch") == "source")


def _entity(supplier: str) -> Json:
    """A supplier as an organization: `NAME <ADDRESS>`, with an e-mail address or a URL."""
    found = SUPPLIER_PATTERN.match(supplier)
    if not found:
        return {"name": supplier}
    return {"name": found["supplier_name"].strip(), **_contact(found["supplier_email"] or "")}


def _contact(address: str) -> Json:
    """How an organization can be reached; nothing for what is no e-mail address and no URL."""
    if _EMAIL.fullmatch(address):
        return {"contact": [{"email": address}]}
    return {"url": [address]} if _URL.fullmatch(address) else {}


# SPDX


def _spdx(
    maker: Debsbom,
    order: Json,
    listed: Mapping[str, Json],
    licences: Licences,
) -> Json:
    written = StringIO()
    BomWriter.create(SBOMType.SPDX).write_to_stream(
        maker.generate(SBOMType.SPDX), written, validate=False
    )
    document = json.loads(written.getvalue())
    licence_of_purl = licences()
    root = f"SPDXRef-{_ROOT}"
    for package in document["packages"]:
        if package["SPDXID"] == root:
            package |= {"name": order["name"], "supplier": _actor(order["supplier"])}
            continue
        purl = package["externalRefs"][0]["referenceLocator"]
        if (licence := licence_of_purl.get(purl)) is not None:
            package["licenseDeclared"] = licence.expression
        if package.get("primaryPackagePurpose") == "SOURCE":
            continue
        if (found := listed.get(purl)) and found["uri"]:
            package["downloadLocation"] = found["uri"]
            package["packageFileName"] = unquote(found["uri"].rpartition("/")[2])
    document["packages"] += [ips_package(each) for each in order["ips"]]
    products = {name: _product(name, sha256) for name, sha256 in order["products"].items()}
    references = {
        reference.identifier: reference
        for licence in licence_of_purl.values()
        for reference in licence.references
    }
    document["hasExtractedLicensingInfos"] = [
        {"licenseId": each.identifier, "name": each.name, "extractedText": each.text}
        for each in references.values()
    ]
    relationships = [
        each for each in document["relationships"] if each["relationshipType"] != "PACKAGE_OF"
    ]
    relationships += [
        {
            "spdxElementId": root,
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": package["SPDXID"],
        }
        for package in document["packages"]
        if package["SPDXID"] != root and package.get("primaryPackagePurpose") != "SOURCE"
    ]
    # So that readers who follow relationships from the root find the sources.
    relationships += [
        {
            "spdxElementId": each["relatedSpdxElement"],
            "relationshipType": "GENERATED_FROM",
            "relatedSpdxElement": each["spdxElementId"],
        }
        for each in relationships
        if each["relationshipType"] == "GENERATES"
    ]
    document["packages"] += products.values()
    relationships += [
        {
            "spdxElementId": each["SPDXID"],
            "relationshipType": "GENERATED_FROM",
            "relatedSpdxElement": root,
        }
        for each in products.values()
    ]
    document["relationships"] = relationships
    document["name"] = order["name"]
    creation = document["creationInfo"]
    creation["creators"] += [f"Tool: dcd-{order['tool_version']}", _actor(order["supplier"])]
    document.pop("documentNamespace", None)
    document = _sorted(document)
    stem = f"https://spdx.org/spdxdocs/{quote(order['name'])}"
    document["documentNamespace"] = f"{stem}-{_uuid(document)}"
    return document


def _actor(supplier: str) -> str:
    entity = _entity(supplier)
    contact = entity.get("contact")
    return f"Organization: {entity['name']}" + (f" ({contact[0]['email']})" if contact else "")


def _product(name: str, sha256_hex: str) -> Json:
    """A file that the image is delivered as."""
    return {
        "SPDXID": f"SPDXRef-product-{sha256(name.encode()).hexdigest()[:32]}",
        "name": name,
        "packageFileName": name,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "ARCHIVE",
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256_hex}],
    }


# The same bytes each time


def _sorted(value: Json) -> Json:
    """The value with every list in one order. No list of these documents has an order with a meaning."""
    if isinstance(value, dict):
        return {key: _sorted(each) for key, each in value.items()}
    if isinstance(value, list):
        found = [_sorted(each) for each in value]
        if len(found) > 1:
            found.sort(key=lambda each: json.dumps(each, sort_keys=True))
        return found
    return value


def _uuid(document: Json) -> UUID:
    digest = sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return uuid5(NAMESPACE_URL, f"urn:sha256:{digest}")


def _text(document: Json) -> str:
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    # It ends soon: neither its garbage nor its modules have to be taken away one by one.
    gc.disable()
    main(json.load(sys.stdin))
    sys.stdout.flush()
    os._exit(0)
