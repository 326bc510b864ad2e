"""The package URLs in a provenance."""

import pytest

from dcd.engine.papers import _package_url
from store.resolved import ResolvedPackage


@pytest.mark.parametrize(
    ("uri", "vendor"),
    [
        ("http://mirror.example.org/debian/pool/main/a/app/app_1_arm64.deb", "debian"),
        ("http://mirror.example.org/ubuntu/pool/main/a/app/app_1_arm64.deb", "ubuntu"),
        ("http://ubuntu.example.org/pool/main/a/app/app_1_arm64.deb", "ubuntu"),
        ("", "debian"),
    ],
)
def test_the_url_of_a_package_names_its_distribution(uri: str, vendor: str) -> None:
    package = ResolvedPackage("deb", "app", "1:1.0", "arm64", "0" * 64, 1, uri)
    assert _package_url(package) == f"pkg:deb/{vendor}/app@1%3A1.0?arch=arm64"
