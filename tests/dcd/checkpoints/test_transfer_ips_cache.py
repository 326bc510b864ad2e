"""The content cache of TransferIPS: no file of a package is downloaded twice."""

import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.transfer.ips import TransferIPS
from statemachine.errors import Unprepared
from store.packages import Packages
from tests.dcd.checkpoints.depot import Depot, install, publisher, software

pytestmark = pytest.mark.slow


@pytest.fixture
def depot(public_path: Path, bench: Any) -> Depot:
    return Depot(public_path / "depot", bench)


@pytest.fixture
def again(depot: Depot, packages: Packages, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs one more attempt in a fresh image, and returns what it fetched and what was in the cache."""

    def run(*elements: str) -> tuple[list[str], list[str]]:
        shutil.rmtree(depot.bench.image)
        depot.bench.image.mkdir()
        lent = packages.lend("attempt")
        try:
            depot.execute(TransferIPS("t"), *elements, packages=lent)
        except Unprepared:
            pass
        finally:
            packages.take_in(lent)
        lines = capfd.readouterr().err.splitlines()
        return tuple(  # type: ignore[return-value]
            [line.partition(" ")[2] for line in lines if line.startswith(word)]
            for word in ("fetched:", "cached:")
        )

    return run


def test_a_second_build_downloads_nothing_again(depot: Depot, bench: Any, again: Any) -> None:
    one = depot.publish("one", "base", "more", "su")
    assert again(software(install("base", "su"), publisher(one))) == (["base", "su"], [])
    wanted = software(install("base", "more"), publisher(one))
    assert again(wanted) == (["more"], ["base"])
    assert "from the package store: 1 of 2 files" in bench.messages()
    assert again(wanted) == ([], ["base", "more"])


def test_nothing_of_the_cache_is_in_the_image(depot: Depot, bench: Any, again: Any) -> None:
    one = depot.publish("one", "base")
    again(software(install("base"), publisher(one)))
    assert list(bench.image.glob("var/pkg/publisher/*/file")) == []


def test_a_second_attempt_takes_what_the_first_one_had_downloaded(
    depot: Depot, again: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcd.checkpoints.transfer.ips_pkg.BACK_OFF_SECONDS", ())
    one = depot.publish("one", "base", "more")
    wanted = software(install("base", "more"), publisher(one))
    depot.cut()
    assert again(wanted) == (["base"], [])
    depot.cut(off=False)
    assert again(wanted) == (["more"], ["base"])


def test_a_damaged_file_is_fetched_again_and_replaced(
    depot: Depot, packages: Packages, again: Any
) -> None:
    one = depot.publish("one", "base")
    wanted = software(install("base"), publisher(one))
    again(wanted)
    [stored] = packages.stored()
    file = packages.directory / "kept" / stored.sha256
    file.chmod(0o644)
    file.write_bytes(gzip.compress(b"damaged"))
    assert again(wanted) == (["base"], [])
    assert again(wanted) == ([], ["base"])


def test_what_was_downloaded_with_a_login_is_not_for_others(
    depot: Depot, packages: Packages, again: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("dcd.checkpoints.transfer.ips.DIRECTORIES", (tmp_path,))
    for name in ("k", "c"):
        (tmp_path / name).write_text("secret")
        (tmp_path / name).chmod(0o600)
    one = depot.publish("one", "base")
    login = f'ssl_key="{tmp_path}/k" ssl_cert="{tmp_path}/c"'
    again(software(install("base"), publisher(one, attributes=login)))
    assert packages.stored() == []
