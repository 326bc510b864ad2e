"""What is taken out of the configuration of an IPS image, and what stays. The text is as pkg(1) writes it."""

from pathlib import Path
from uuid import UUID

import pytest

from dcd.platform.ips_image import forget_host, has_configuration, is_of_the_host

CONFIGURATION = """\
[authority_omnios]
alias =
mirror_info = []
mirrors = ['https://mirror.example.org/']
origin_info = [{'disabled': 'false', 'uri': 'https://pkg.example.org/core/', 'proxy': ''}, \
{'disabled': 'false', 'uri': 'file:///srv/build/repo/', 'proxy': ''}]
origins = ['https://pkg.example.org/core/', 'file:///srv/build/repo/']
prefix = omnios
last_uuid = 2026-01-01 00:00:00
ssl_cert = /srv/build/image/var/pkg/ssl/aa
ssl_key = /srv/build/image/var/pkg/ssl/bb
uuid = 6ad2f2d6-1b1c-11ef-8d3c-000000000000

[image]
version = 3

[property]
send-uuid = True
uuid = not a publisher's
"""

PACKAGES = "omnios\tbase\t1.0-1:20260101T000000Z\n"


def client_id(configuration: str) -> UUID:
    """The identifier of the first publisher's client."""
    line = next(line for line in configuration.splitlines() if line.startswith("uuid = "))
    return UUID(line.removeprefix("uuid = "))


def test_the_client_has_an_identifier_of_the_image(tmp_path: Path) -> None:
    def of(packages: str, present: str = "6ad2f2d6-1b1c-11ef-8d3c-000000000000") -> UUID:
        file = tmp_path / "var/pkg/pkg5.image"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = CONFIGURATION.replace("6ad2f2d6-1b1c-11ef-8d3c-000000000000", present)
        file.write_text(text.replace("uuid = not a publisher's\n", ""))
        forget_host(tmp_path, packages)
        return client_id(file.read_text())

    assert of(PACKAGES).version == 5
    assert of(PACKAGES) == of(PACKAGES, "11111111-1b1c-11ef-8d3c-000000000000")
    assert of(PACKAGES) != of(PACKAGES.replace("1.0", "1.1"))


@pytest.mark.parametrize("directory", ["var/pkg", ".org.opensolaris,pkg"])
def test_paths_keys_and_identifiers_go_and_the_rest_stays(tmp_path: Path, directory: str) -> None:
    file = tmp_path / directory / "pkg5.image"
    keys = file.parent / "ssl"
    keys.mkdir(parents=True)
    (keys / "bb").write_text("-----BEGIN PRIVATE KEY-----")
    file.write_text(CONFIGURATION)
    file.chmod(0o640)
    assert has_configuration(tmp_path)
    assert forget_host(tmp_path, PACKAGES) == ["file:///srv/build/repo/"]
    left = file.read_text()
    assert "/srv/build" not in left
    assert "6ad2f2d6" not in left
    for line in (
        "origins = ['https://pkg.example.org/core/']",
        "mirrors = ['https://mirror.example.org/']",
        "prefix = omnios",
        f"uuid = {client_id(left)}",
        # Without a time, the pkg of OmniOS makes another identifier.
        "last_uuid = Thu Jan  1 00:00:00 1970",
        "version = 3",
        "send-uuid = True",
        "uuid = not a publisher's",
    ):
        assert line in left.splitlines()
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(keys.iterdir()) == []
    before = file.stat().st_ino
    assert forget_host(tmp_path, PACKAGES) == []
    assert file.stat().st_ino == before


def test_a_list_that_cannot_be_read_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "var/pkg/pkg5.image"
    file.parent.mkdir(parents=True)
    file.write_text("[authority_one]\norigins = what is this\n")
    assert forget_host(tmp_path, PACKAGES) == []
    assert file.read_text() == "[authority_one]\norigins = what is this\n"


def test_a_link_in_the_image_does_not_lead_out_of_it(tmp_path: Path) -> None:
    image, outside = tmp_path / "image", tmp_path / "outside"
    outside.mkdir()
    image.mkdir()
    (outside / "pkg5.image").write_text(CONFIGURATION)
    (image / "var").mkdir()
    (image / "var/pkg").symlink_to(outside)
    assert forget_host(image, PACKAGES) == []
    assert (outside / "pkg5.image").read_text() == CONFIGURATION


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/srv/repo", True),
        ("file:///srv/x.p5p", True),
        ("http://127.0.0.1:8000/", True),
        ("http://localhost/", True),
        ("http://[::1]:80/", True),
        ("https://pkg.example.org/", False),
        ("http://127.example.org/", False),
    ],
)
def test_what_is_of_the_host(uri: str, expected: bool) -> None:
    assert is_of_the_host(uri) is expected
