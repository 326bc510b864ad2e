"""How long the certificates are valid that a connection string names. Blocking."""

import ssl
import subprocess
import time
from datetime import UTC, datetime

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from dcd.doctor import HostCheck

WARNING_DAYS = 30.0
"""A certificate that is valid for a shorter time is to be renewed now."""

OPENSSL_SECONDS = 10.0


def examine_certificates(dsn: str) -> list[HostCheck]:
    """The check of this host's certificate and of that of the CA; none where no file is named, or none can be
    read: connections say why. Raises nothing."""
    try:
        named = conninfo_to_dict(dsn)
    except ProgrammingError:
        return []
    ends = {path: end for name in _FILES if (path := named.get(name)) and (end := _end(str(path)))}
    if not ends:
        return []
    file, end = min(ends.items(), key=lambda each: each[1])
    days = (end - time.time()) / 86400
    text = f"{file} is valid until {datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC"
    if days >= WARNING_DAYS:
        return [HostCheck("farm certificates", "ok", text)]
    left = f"for {days:.0f} more days" if days > 0 else "no more"
    remedy = "renew it, and start the daemon again: without it this member reaches no database"
    return [HostCheck("farm certificates", "warning", f"{text}, {left}", remedy)]


_FILES = ("sslcert", "sslrootcert")


def _end(path: str) -> float | None:
    """The end of the validity of a certificate, in seconds since 1970; None where that is unknown (`openssl`
    is missing, or this is no certificate)."""
    command = ["openssl", "x509", "-in", path, "-noout", "-enddate"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=OPENSSL_SECONDS
        )
        return float(ssl.cert_time_to_seconds(done.stdout.strip().removeprefix("notAfter=")))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
