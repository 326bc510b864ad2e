"""The connection string of a member, which users of the daemon see."""

import pytest

from dcd.farm.member import _checked
from statemachine.errors import UsageError


@pytest.mark.parametrize(
    "dsn",
    [
        "host=db dbname=dcd sslmode=verify-full sslcert=/etc/dcd/host.crt sslkey=/etc/dcd/host.key",
        "host=db passfile=/etc/dcd/password",
        "postgresql://dcd-a@db/dcd?sslmode=require",
    ],
)
def test_a_connection_string_names_files_with_secrets(dsn: str) -> None:
    assert _checked(dsn) == dsn


@pytest.mark.parametrize(
    ("dsn", "parameter"),
    [
        ("host=db password=x", "password"),
        ("postgresql://dcd-a:x@db/dcd", "password"),
        ("host=db sslkey=/etc/dcd/host.key sslpassword=x", "sslpassword"),
    ],
)
def test_a_secret_in_it_is_refused(dsn: str, parameter: str) -> None:
    with pytest.raises(UsageError, match="has a password") as refused:
        _checked(dsn)
    assert refused.value.details == f"its parameters: {parameter}"


def test_what_is_no_connection_string_is_refused_with_an_example() -> None:
    with pytest.raises(UsageError, match="no connection string") as refused:
        _checked("db.example")
    assert "host=db.example" in refused.value.resolution
