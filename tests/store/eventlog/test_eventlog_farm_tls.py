"""Members that the database knows by certificates, made by the commands of the page that people read: a
member starts, submits and builds; whatever else connects is refused, and learns why."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from dcd.main import main
from store.host.identity import service_identity
from tests.conftest import Daemon
from tests.docs.conftest import ROOT, blocks
from tests.postgresql import USER, Cluster

PAGE = ROOT / "docs/how-to/from-one-machine-to-five.md"

FURTHER = """
mkdir old others
export -f certificate
faketime 2020-01-01 bash -ec "certificate old/build1 dcd-build1 extendedKeyUsage=clientAuth"
cd others
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=others \\
    -keyout ca.key -out ca.crt
certificate build1 dcd-build1 extendedKeyUsage=clientAuth
"""
"""A certificate that has expired, and one by another CA."""

MANIFEST = """<dc><distro name="x"><execution>
<checkpoint name="one" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
<args>true</args></checkpoint></execution></distro></dc>"""


def of_page(language: str, containing: str) -> str:
    """The block of the page with this text."""
    (found,) = [each.text for each in blocks(PAGE, language) if containing in each.text]
    return found


@dataclass(frozen=True)
class Secured:
    """A database that people have secured as the page says, and its certificates."""

    keys: Path

    def dsn(self, *others: str) -> str:
        """The connection string of build1, with other parameters in the place of its own."""
        given = dict(
            word.split("=", 1)
            for word in of_page("toml", "[farm]").split('"')[1].split()
            if word.startswith(("dbname", "user", "host", "sslmode"))
        )
        given |= {"hostaddr": "127.0.0.1", "sslrootcert": "ca.crt"}
        given |= {"sslcert": "build1.crt", "sslkey": "build1.key"}
        given |= dict(word.split("=", 1) for word in others)
        for name in ("sslrootcert", "sslcert", "sslkey"):
            given[name] = str(self.keys / given[name])
        return " ".join(f"{name}={value}" for name, value in given.items())


@pytest.fixture(scope="module")
def secured(initialised: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    keys = tmp_path_factory.mktemp("keys")
    making = ["bash", "-euc", of_page("console", "certificate()") + FURTHER]
    subprocess.run(making, cwd=keys, check=True, capture_output=True)
    cluster = Cluster(initialised)
    try:
        user = pwd.getpwnam(USER) if not os.geteuid() else pwd.getpwuid(os.geteuid())
        for name in ("ca.crt", "db.crt", "db.key"):
            copy = shutil.copy(keys / name, cluster.place / name)
            os.chown(copy, user.pw_uid, user.pw_gid)
        rules = of_page("text", "hostssl").replace("10.0.0.0/24", "127.0.0.1/32")
        (cluster.data / "pg_hba.conf").write_text(f"local all all trust\n{rules}")
        settings = [f"ssl_{part}_file={cluster.place / name}" for part, name in
                    (("ca", "ca.crt"), ("cert", "db.crt"), ("key", "db.key"))]  # fmt: skip
        cluster.start("ssl=on", "listen_addresses=127.0.0.1", *settings)
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute('CREATE ROLE "dcd-admin" LOGIN CREATEROLE')
            connection.execute('CREATE DATABASE dcd OWNER "dcd-admin"')
        farm = Secured(keys)
        administrator = farm.dsn("user=dcd-admin", "sslcert=admin.crt", "sslkey=admin.key")
        assert main(["farm", "init", administrator]) == 0
        member = ["farm", "member", "add", "--database", administrator]
        for host in ("build1", "build2"):
            assert main([*member, host, "amd64", "tool:*"]) == 0
        yield farm
    finally:
        cluster.remove()


@pytest.mark.root
@pytest.mark.daemon
def test_a_member_with_its_certificate_starts_submits_and_builds(
    secured: Secured, tmp_path: Path
) -> None:
    member = Daemon(tmp_path)
    own = {"sslcert": "build1.crt", "sslkey": "build1.key", "sslrootcert": "ca.crt"}
    for name in own.values():
        shutil.copy(secured.keys / name, tmp_path / name)
    database = secured.dsn(*(f"{key}={tmp_path / name}" for key, name in own.items()))
    member.tables = f'[farm]\ndatabase = "{database}"\n'

    member.spawn()
    assert member.process is not None
    assert member.process.wait(60) == 9
    told = member.log.read_text()
    user = service_identity(member.state_dir).uid
    assert "certificate or its key cannot be read" in told
    assert f"belong to {user} with the mode 0600" in told

    os.chown(tmp_path / "build1.key", user, user)
    member.start()
    try:
        (tmp_path / "m.xml").write_text(MANIFEST)
        assert member.wait(member.submit(tmp_path / "m.xml"))["state"] == "completed"
        assert [each["host"] for each in member.json("hosts")["hosts"]] == ["build1", "build2"]
    finally:
        member.stop()


@pytest.mark.parametrize(
    ("others", "told"),
    [
        (["sslcert=build2.crt", "sslkey=build2.key"], "certificate is that of another role"),
        (["sslcert=db.crt", "sslkey=db.key"], "certificate is that of another role"),
        (["sslcert=old/build1.crt", "sslkey=old/build1.key"], "certificate has expired"),
        (
            ["sslcert=others/build1.crt", "sslkey=others/build1.key"],
            "the database does not accept this host's certificate",
        ),
        (["sslcert=none.crt"], "asks for a certificate of this host, and got none"),
        (["sslmode=disable"], "add sslmode=verify-full"),
        (["sslrootcert=others/ca.crt"], "the certificate of the database is not trusted"),
        (["sslrootcert=none.crt"], "the certificate of the CA is missing"),
        (["host=db2.example"], "certificate of the database is that of another host"),
        (["sslkey=build2.key"], "certificate or its key cannot be read"),
        (["dbname=postgres"], "the database has no rule for this host"),
        (["user=dcd-build3"], "dcd farm member add"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else None,
)
def test_whoever_else_connects_is_refused_and_learns_why(
    secured: Secured, others: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["farm", "member", "list", "--database", secured.dsn(*others)]) == 9
    assert told in capsys.readouterr().err
