"""Secrets by reference: read at the last moment, from few places."""

import os
from pathlib import Path

import pytest

from dcd.manifest.diagnostics import ManifestError
from dcd.manifest.objects import Password
from dcd.manifest.secrets import Borrower, password_text, require_use
from dcd.planning.load import load
from statemachine.errors import InvalidManifest, PermissionDenied, Unprepared


def test_a_secret_is_read_from_a_file_below_the_directory(tmp_path: Path) -> None:
    (tmp_path / "live").write_text("hunter2\n")
    assert password_text(Password(file=str(tmp_path / "live")), {}, [tmp_path]) == "hunter2"


def test_no_other_file_is_read_whatever_the_path_or_the_link(tmp_path: Path) -> None:
    allowed, other = tmp_path / "secrets", tmp_path / "shadow"
    allowed.mkdir()
    other.write_text("root:x")
    (allowed / "link").symlink_to(other)
    for path in (other, allowed / "../shadow", allowed / "link"):
        with pytest.raises(InvalidManifest, match="may not be read") as caught:
            password_text(Password(file=str(path)), {}, [allowed])
        assert "root:x" not in str(caught.value)


def test_a_secret_is_read_from_a_variable_with_the_prefix() -> None:
    environment = {"DCD_SECRET_LIVE": "hunter2", "PATH": "/bin"}
    assert password_text(Password(env="DCD_SECRET_LIVE"), environment) == "hunter2"
    with pytest.raises(InvalidManifest, match="'PATH' may not be read"):
        password_text(Password(env="PATH"), environment)
    with pytest.raises(Unprepared, match="no variable 'DCD_SECRET_ROOT'"):
        password_text(Password(env="DCD_SECRET_ROOT"), environment)


def test_a_secret_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Unprepared, match="cannot be read"):
        password_text(Password(file=str(tmp_path / "live")), {}, [tmp_path])
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(Unprepared, match="not text"):
        password_text(Password(file=str(tmp_path / "binary")), {}, [tmp_path])
    (tmp_path / "big").write_bytes(b"x" * 70_000)
    with pytest.raises(Unprepared, match="too big"):
        password_text(Password(file=str(tmp_path / "big")), {}, [tmp_path])


def test_a_password_in_the_manifest_is_its_text() -> None:
    assert password_text(Password(text="live"), {}) == "live"


def told(attributes: str) -> list[str]:
    """What is said of an iSCSI disk, all of it as text."""
    text = f"""<dc><distro name="x"><target><disk>
<iscsi target_ip="192.0.2.1" target_lun="0" {attributes}/></disk></target>
<execution><checkpoint name="a" mod_path="dcd/checkpoints/custom_script"
checkpoint_class="CustomScript"><args>true</args></checkpoint></execution></distro></dc>"""
    try:
        found = load(text, "/m.xml").diagnostics
    except ManifestError as refused:
        found = refused.diagnostics
    return [f"{each.severity} {each.line} {each.message} {each.suggestion}" for each in found]


def test_a_chap_secret_in_the_manifest_is_warned_of_and_not_repeated() -> None:
    (warned,) = told('chap_name="me" chap_password="hunter2"')
    assert warned.startswith("warning 2 the CHAP secret is in the manifest")
    assert "nothing reads it" in warned
    refused = told('chap_password="hunter2" chap_passwrd_file="x"')
    assert any(text.startswith("error") for text in refused)
    assert "hunter2" not in "".join([warned, *refused])


def test_a_chap_secret_by_reference_is_nothing_to_warn_of_and_two_are_one_too_many() -> None:
    assert told('chap_name="me" chap_password_file="/etc/dcd/secrets/chap"') == []
    assert told('chap_password_env="DCD_SECRET_CHAP"') == []
    (refused,) = told('chap_password="hunter2" chap_password_file="/etc/dcd/secrets/chap"')
    assert "is given by chap_password and chap_password_file" in refused


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A secret of user 70020 and group 70021."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    path = tmp_path / "db"
    path.write_text("hunter2")
    os.chown(path, 70020, 70021)
    return path


@pytest.mark.parametrize(
    ("mode", "uid", "gids", "may"),
    [
        (0o600, 70020, (), True),
        (0o600, 70099, (70021,), False),
        (0o640, 70099, (70021,), True),
        (0o640, 70099, (70099, 0), False),
        (0o644, 70099, (70099,), False),
        (0o000, 70099, (70021,), False),
    ],
)
def test_a_secret_is_for_its_owner_and_for_the_group_that_may_read_it(
    secret: Path, mode: int, uid: int, gids: tuple[int, ...], may: bool
) -> None:
    secret.chmod(mode)
    assert Borrower(uid, "somebody", gids).may_use(str(secret), [secret.parent]) is may


def test_a_link_lends_nothing(secret: Path, tmp_path: Path) -> None:
    """Who may write in a directory of secrets has no more by a link there than what it leads to gives."""
    link = tmp_path / "mine"
    link.symlink_to(secret)
    os.chown(link, 70099, 70099, follow_symlinks=False)
    assert not Borrower(70099, "somebody").may_use(str(link), [tmp_path])
    assert Borrower(70020, "owner").may_use(str(link), [tmp_path])


def test_a_link_elsewhere_is_of_no_use_even_to_the_owner_of_the_secret(
    secret: Path, tmp_path: Path
) -> None:
    """Between this check and the attempt its owner could lead it to a secret of somebody else."""
    place, link = tmp_path / "secrets", tmp_path / "link"
    place.mkdir()
    secret.rename(place / "db")
    link.symlink_to(place / "db")
    owner = Borrower(70020, "owner")
    assert owner.may_use(f"{place}/db", [place])
    assert not owner.may_use(f"{link}", [place])
    assert not owner.may_use(f"{place}/../link", [place])


def test_a_name_in_a_directory_that_its_owner_changes_is_of_no_use(
    secret: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    secret.rename(own / "db")
    owner = Borrower(70020, "owner")
    assert owner.may_use(f"{own}/db", [tmp_path])
    (tmp_path / "link").symlink_to(own / "db")
    assert owner.may_use(f"{tmp_path}/link", [tmp_path])
    os.chown(own, 70020, 70020)
    assert not owner.may_use(f"{own}/db", [tmp_path])
    assert not owner.may_use(f"{tmp_path}/link", [tmp_path])
    os.chown(own, 0, 0)
    own.chmod(0o777)
    assert not owner.may_use(f"{own}/db", [tmp_path])


def test_a_secret_can_be_lent_to_users_and_groups(secret: Path) -> None:
    lent = (f"{secret}=ada", "DCD_SECRET_LIVE=@images")
    places = [secret.parent]
    assert Borrower(70099, "ada", lent=lent).may_use(str(secret), places)
    assert not Borrower(70099, "ada", lent=lent).may_use("DCD_SECRET_LIVE", places)
    assert Borrower(70098, "bob", groups=("images",), lent=lent).may_use("DCD_SECRET_LIVE", places)
    assert not Borrower(70098, "images", lent=lent).may_use("DCD_SECRET_LIVE", places)
    assert not Borrower(70098, "bob", lent=lent).may_use("DCD_SECRET_LIVE", places)


def test_a_refusal_does_not_say_whether_a_secret_is_there(secret: Path) -> None:
    somebody = Borrower(70099, "somebody")
    told = []
    for name in (str(secret), str(secret.parent / "other"), "/etc/shadow", "DCD_SECRET_LIVE"):
        with pytest.raises(PermissionDenied) as caught:
            require_use(somebody, [name])
        told.append(str(caught.value).replace(name, "NAME"))
    assert len(set(told)) == 1
    require_use(None, [str(secret), "/etc/shadow"])  # root: others refuse what is no secret
