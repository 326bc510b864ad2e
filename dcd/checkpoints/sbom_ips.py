"""IPS packages in an SBOM: their components for CycloneDX and packages for SPDX.

Only `dcd.checkpoints.sbom_writer` imports this: it needs the libraries of the extra `sbom`. Source: CycloneDX
1.6; SPDX 2.3, clause 7; the package URL specification, which has no type for IPS.
"""

from hashlib import sha256
from typing import Any

from packageurl import PackageURL

Json = Any


def ips_component(package: Json) -> Json:
    """The component of a package as `dcd.checkpoints.sbom` orders it."""
    purl = _purl(package)
    found = {
        "type": "library",
        "bom-ref": purl,
        "group": package["publisher"],
        "name": package["name"],
        "version": package["version"],
        "purl": purl,
        "supplier": {"name": package["publisher"]},
        "properties": [
            {"name": "ips:fmri", "value": package["fmri"]},
            *({"name": "ips:accepted-licence", "value": name} for name in package["accepted"]),
        ],
    }
    if package["sha256"]:
        found["hashes"] = [{"alg": "SHA-256", "content": package["sha256"]}]
    return found


def ips_package(package: Json) -> Json:
    """The package of SPDX of the same."""
    found = {
        "SPDXID": f"SPDXRef-ips-{sha256(package['fmri'].encode()).hexdigest()[:32]}",
        "name": package["name"],
        "versionInfo": package["version"],
        "supplier": f"Organization: {package['publisher']}",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "LIBRARY",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": _purl(package),
            }
        ],
    }
    if package["sha256"]:
        found["checksums"] = [{"algorithm": "SHA256", "checksumValue": package["sha256"]}]
    if package["accepted"]:
        found["licenseComments"] = f"Accepted at installation: {', '.join(package['accepted'])}"
    return found


def _purl(package: Json) -> str:
    return str(
        PackageURL(
            type="generic",
            namespace=package["publisher"],
            name=package["name"],
            version=package["version"],
            qualifiers={"fmri": package["fmri"]},
        ).to_string()
    )
