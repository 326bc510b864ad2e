"""The package lists between the stages of a transfer: what apt finds in them once the packages are chosen."""

from pathlib import Path

import pytest

from dcd.checkpoints.transfer.deb_base import Chosen
from dcd.checkpoints.transfer.deb_lists import limited
from dcd.platform.apt_root import Place, WantedFile

STANZAS = (
    "Package: app\nVersion: 1.0\nDescription: first\n it is\n",
    "Package: app-tools\nVersion: 1.0\n",
    "Package: app\nVersion: 0.9\n",
    "Version: 2\npackage:\tlib\n",
    "Package: other\nDescription: says\n Package: app\n",
)
CHOSEN = {
    name: WantedFile(name, "0" * 64, "", 1) for name in ("app_1.0_amd64.deb", "lib_2_all.deb")
}
LIMITED = "\n".join((STANZAS[0], STANZAS[2], STANZAS[3]))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "root", tmp_path / "aside")
    place.root.mkdir()
    place.aside.mkdir()
    place.settings.write_text('Dir "/image";\n')
    return place


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Two indexes; the second one does not end in an empty line."""
    lists = tmp_path / "lists"
    (lists / "partial").mkdir(parents=True)
    (lists / "mirror_dists_test_InRelease").write_text("Package: app\n")
    (lists / "mirror_dists_test_main_binary-amd64_Packages").write_text("\n".join((*STANZAS, "")))
    (lists / "mirror_dists_other_main_binary-amd64_Packages").write_text(STANZAS[3].rstrip())
    return lists


def texts(lists: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in lists.iterdir() if file.is_file()}


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 22])
def test_the_lists_of_the_image_keep_all_versions_of_the_chosen_packages(
    place: Place, lists: Path, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcd.checkpoints.transfer.deb_lists._CHUNK_BYTES", chunk_bytes)
    apt = {"APT_CONFIG": "same"}
    assert limited(place, apt, lists, Chosen(["app"], CHOSEN), kept=False) == apt
    assert texts(lists) == {
        "mirror_dists_test_InRelease": "Package: app\n",
        "mirror_dists_test_main_binary-amd64_Packages": f"{LIMITED}\n",
        "mirror_dists_other_main_binary-amd64_Packages": f"{STANZAS[3]}\n",
    }


def test_they_keep_the_installed_packages(place: Place, lists: Path) -> None:
    status = place.root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text("Package: other\nStatus: install ok installed\nVersion: 1\n")
    limited(place, {}, lists, Chosen(["app"], CHOSEN), kept=False)
    stanzas = texts(lists)["mirror_dists_test_main_binary-amd64_Packages"]
    assert stanzas == f"{LIMITED}\n{STANZAS[4]}\n"


def test_the_lists_that_the_base_has_kept_are_copied(place: Place, lists: Path) -> None:
    before = texts(lists)
    apt = limited(place, {}, lists, Chosen(["lib"], CHOSEN), kept=True)
    assert texts(lists) == before
    (copy,) = (each for each in place.aside.iterdir() if each.is_dir())
    assert texts(copy)["mirror_dists_test_main_binary-amd64_Packages"] == f"{LIMITED}\n"
    assert f'Dir::State::Lists "{copy}";' in Path(apt["APT_CONFIG"]).read_text()


@pytest.mark.parametrize("kept", [True, False])
def test_without_a_choice_apt_has_all_lists_and_tells_why(
    place: Place, lists: Path, kept: bool
) -> None:
    before = texts(lists)
    apt = {"APT_CONFIG": "same"}
    assert limited(place, apt, lists, Chosen(["app"], {}), kept=kept) == apt
    assert texts(lists) == before
