"""The delivered list of packages says what is in the image, whoever changed it."""

from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.packages import PACKAGE_LIST, debian_list, deliver_list, list_kept_true


def put_status(image: Path, *packages: tuple[str, str]) -> None:
    """Have dpkg know these packages, each with its state."""
    status = image / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text(
        "\n".join(
            f"Package: {name}\nStatus: install ok {state}\nArchitecture: amd64\nVersion: 1.0\n"
            f"Description: words\n Status: not a field\n"
            for name, state in packages
        )
    )


def test_packages_that_are_not_installed_any_more_are_not_listed(bench: Any) -> None:
    put_status(bench.image, ("lib", "installed"), ("gone", "config-files"), ("app", "unpacked"))
    assert debian_list(bench.image) == "app\t1.0\tamd64\nlib\t1.0\tamd64\n"


def test_an_image_without_dpkg_has_no_packages(bench: Any) -> None:
    assert debian_list(bench.image) == ""


def delivered(bench: Any) -> list[str]:
    return [artifact.name for artifact in bench.artifacts]


@pytest.mark.parametrize(
    "after", [(("app", "installed"),), (), (("app", "installed"), ("new", "installed"))]
)
def test_a_list_that_is_not_true_any_more_is_delivered_again(bench: Any, after: Any) -> None:
    context = bench.context(bench.empty_doc())
    put_status(bench.image, ("app", "installed"), ("lib", "installed"))
    deliver_list(context, debian_list(bench.image))
    with list_kept_true(context):
        put_status(bench.image, *after)
    assert delivered(bench) == [PACKAGE_LIST] * 2
    names = [line.split("\t")[0] for line in (bench.root / "media" / PACKAGE_LIST).open()]
    assert names == [name for name, _ in after]
    assert bench.artifacts[-1].size_bytes == (bench.root / "media" / PACKAGE_LIST).stat().st_size


def test_a_list_that_is_true_is_not_delivered_again(bench: Any) -> None:
    context = bench.context(bench.empty_doc())
    put_status(bench.image, ("app", "installed"))
    deliver_list(context, debian_list(bench.image))
    with list_kept_true(context):
        (bench.image / "other").touch()
        deliver_list(context, debian_list(bench.image))
    assert delivered(bench) == [PACKAGE_LIST]


def test_no_list_is_made_where_none_was_delivered(bench: Any) -> None:
    with list_kept_true(bench.context(bench.empty_doc())):
        put_status(bench.image, ("app", "installed"))
    assert delivered(bench) == []
