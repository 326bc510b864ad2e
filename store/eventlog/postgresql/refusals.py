"""Why a connection to the database of a farm was refused, and what to do: by the message, since libpq gives
no code for what fails before a session begins.

Source: libpq's fe-secure-openssl.c and fe-connect.c, PostgreSQL's auth.c; OpenSSL's ssl_err.c for the alerts,
whose names differ by version.
"""

import re

_OWN_FILES = (
    "[farm] database names the files: sslcert and sslkey of this host, and sslrootcert, the certificate of"
    " the CA"
)
_REMEDIES = (
    (
        r"alert certificate expired",
        "this host's certificate has expired",
        "issue a new one for its role, and put it in the place of the old one (sslcert, sslkey)",
    ),
    (
        r"alert (unknown ca|bad certificate|certificate unknown|unsupported certificate|decrypt error)",
        "the database does not accept this host's certificate",
        "let the CA of the farm issue it (ssl_ca_file of the server), for clients",
    ),
    (
        r"certificate required|requires a valid client certificate",
        "the database asks for a certificate of this host, and got none",
        _OWN_FILES,
    ),
    (
        r"certificate authentication failed",
        "this host's certificate is that of another role",
        "its common name must be the role of this host, dcd-HOST, which is also user= in [farm] database",
    ),
    (
        r"certificate verify failed",
        "the certificate of the database is not trusted",
        "it has expired, or sslrootcert is not the certificate of the CA that issued it: "
        "openssl verify -CAfile SSLROOTCERT SERVER.crt",
    ),
    (
        r"server certificate for .* does not match host name",
        "the certificate of the database is that of another host",
        "name the server in [farm] database (host=) as its certificate does (subjectAltName)",
    ),
    (
        r"server does not support SSL",
        "the database offers no TLS",
        "set ssl = on in postgresql.conf, with ssl_cert_file, ssl_key_file and ssl_ca_file",
    ),
    (
        r"no encryption",
        "the database accepts only connections with TLS from this host",
        "add sslmode=verify-full to [farm] database",
    ),
    (
        r"no pg_hba.conf entry",
        "the database has no rule for this host",
        "add the host (dcd farm member add HOST LABEL...), or the rule to pg_hba.conf: "
        "hostssl DATABASE +DATABASE_member ADDRESS cert",
    ),
    (
        r"root certificate file .* does not exist",
        "the certificate of the CA is missing",
        _OWN_FILES,
    ),
    (
        # libpq reports a key that may not be read as one that cannot be loaded, with an arbitrary reason.
        r"private key file|could not (open|read) certificate file",
        "this host's certificate or its key cannot be read",
        "the key must be that of the certificate and belong to {user} with the mode 0600; {user} must be"
        " able to enter its directory",
    ),
    (
        r"starting up|shutting down|recovery mode|not (yet )?accepting connections",
        "the database of the farm cannot be reached: it starts or stops",
        "nothing: dcd connects again by itself",
    ),
    (
        r"too many clients|too many connections|connection slots are reserved",
        "the database of the farm takes no more connections",
        "raise max_connections there: dcd needs ten for each member",
    ),
    (
        r"role .* does not exist",
        "the database does not know the role of this host",
        "correct user= in [farm] database, or add the host: dcd farm member add HOST LABEL...",
    ),
)


def why_refused(message: str, user: str) -> tuple[str, str] | None:
    """What a message of libpq means, and the remedy; None when it is none of these. `user` is the one as
    which this process reads the files."""
    for pattern, brief, remedy in _REMEDIES:
        if re.search(pattern, message, re.DOTALL):
            return brief, remedy.replace("{user}", user)
    return None
