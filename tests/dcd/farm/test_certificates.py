"""Certificates that end soon are reported before they do."""

import subprocess
from pathlib import Path

import pytest

from dcd.farm.certificates import examine_certificates


def certificate(path: Path, days: int) -> Path:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", path.with_suffix(".key"), "-out", path, "-days", str(days), "-subj", "/CN=dcd-a"],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


@pytest.mark.parametrize(("days", "status"), [(10, "warning"), (400, "ok")])
def test_a_certificate_that_ends_within_a_month_is_a_warning(
    tmp_path: Path, days: int, status: str
) -> None:
    own, authority = certificate(tmp_path / "own.crt", days), certificate(tmp_path / "ca.crt", 3650)
    (found,) = examine_certificates(f"host=db sslcert={own} sslrootcert={authority}")
    assert (found.status, found.value.startswith(f"{own} is valid until")) == (status, True)
    assert ("renew it" in found.remedy) == (status == "warning")


def test_what_is_no_certificate_is_not_examined(tmp_path: Path) -> None:
    (tmp_path / "own.crt").write_text("nothing")
    for dsn in ("host=db", "host=db sslrootcert=system", f"sslcert={tmp_path}/own.crt", "=", ""):
        assert examine_certificates(dsn) == []
