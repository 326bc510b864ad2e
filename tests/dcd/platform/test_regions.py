"""Time zones and locales of this host, by which names in a manifest are looked at."""

import zoneinfo
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcd.platform.regions import Unknown, unknown_locale, unknown_time_zone

ZONES = ("Etc/UTC", "Europe/Berlin", "Europe/Bratislava", "America/Argentina/Salta")
LOCALES = "# comment\nde_AT.UTF-8 UTF-8\nde_AT ISO-8859-1\nen_GB.UTF-8 UTF-8\nsr_RS@latin UTF-8\n"


@pytest.fixture
def zones(tmp_path: Path) -> Iterator[Path]:
    """The only time zones that this host has."""
    for name in ZONES:
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"TZif2")
    zoneinfo.reset_tzpath(to=[str(tmp_path)])
    yield tmp_path
    zoneinfo.reset_tzpath()


@pytest.mark.parametrize("name", [*ZONES, "posix/Europe/Berlin", "right/Etc/UTC"])
def test_a_time_zone_of_the_host_is_known(zones: Path, name: str) -> None:
    assert unknown_time_zone(name) is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Europe/Berln", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("America/Salta", "America/Argentina/Salta"),
        ("Mars/Olympus_Mons", ""),
    ],
)
def test_another_is_not_and_what_was_meant_is_said(zones: Path, name: str, meant: str) -> None:
    found = unknown_time_zone(name)
    assert found is not None
    if meant or not any(zoneinfo.available_timezones() - set(ZONES)):
        assert found == Unknown(meant)


@pytest.mark.parametrize("name", ["C", "POSIX", "C.UTF-8", "C.utf8", "de_AT", "sr_RS@latin"])
def test_a_locale_of_the_host_is_known(tmp_path: Path, name: str) -> None:
    (tmp_path / "SUPPORTED").write_text(LOCALES)
    assert unknown_locale(name, tmp_path / "SUPPORTED") is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("en_GB.utf8", "en_GB.UTF-8"),
        ("de_AU.UTF-8", "de_AT.UTF-8"),
        ("sr_RS@latn", "sr_RS@latin"),
        ("xx", ""),
    ],
)
def test_another_locale_is_not(tmp_path: Path, name: str, meant: str) -> None:
    (tmp_path / "SUPPORTED").write_text(LOCALES)
    assert unknown_locale(name, tmp_path / "SUPPORTED") == Unknown(meant)


def test_a_host_without_a_list_of_locales_doubts_none(tmp_path: Path) -> None:
    assert unknown_locale("xx_XX", tmp_path / "SUPPORTED") is None
