"""Passwords of accounts: hashed on the host, written into shadow(5), seen by no program of the image."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.image.configure import DebianPrePkgImgMod
from dcd.checkpoints.image.passwords import set_password
from dcd.manifest.objects import Password, User
from statemachine.errors import CheckpointError

EPOCH = 20000 * 86400 + 5


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with two accounts."""
    root = tmp_path / "image"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nlive:x:1000:1001::/home:/x\n")
    (root / "etc/group").write_text("root:x:0:\nshadow:x:42:\nlive:x:1001:\n")
    return root


def is_hash_of(value: str, password: str) -> bool:
    _, kind, salt, _ = value.split("$")
    command = ["openssl", "passwd", f"-{kind}", "-salt", salt, "-stdin"]
    made = subprocess.run(command, input=password.encode(), capture_output=True, check=True)
    return made.stdout.decode().strip() == value


def set_(root: Path, name: str, **given: Any) -> None:
    set_password(root, User(name=name), Password(**given), EPOCH)


def shadow(root: Path) -> list[str]:
    return (root / "etc/shadow").read_text().splitlines()


def test_an_image_without_shadow_gets_one_that_is_closed(image: Path) -> None:
    set_(image, "live", text="pass word")
    (line,) = shadow(image)
    name, value, *rest = line.split(":")
    assert (name, rest) == ("live", ["20000", "0", "99999", "7", "", "", ""])
    assert is_hash_of(value, "pass word")
    status = (image / "etc/shadow").stat()
    assert status.st_mode & 0o7777 == 0o640
    if os.geteuid() == 0:
        assert (status.st_uid, status.st_gid) == (0, 42)


def test_the_rest_of_shadow_stays_as_it_is(image: Path) -> None:
    file = image / "etc/shadow"
    file.write_text("root:!:19000:0:99999:7:30:20000:\nlive:old:1:2:3:4\nodd line\nroo:x:::\n")
    file.chmod(0o604)
    for name in ("root", "live"):
        set_(image, name, hashed=True, text="$6$salt$hash")
    assert shadow(image) == [
        "root:$6$salt$hash:20000:0:99999:7:30:20000:",
        "live:$6$salt$hash:20000:2:3:4:::",
        "odd line",
        "roo:x:::",
    ]
    assert file.stat().st_mode & 0o7777 == 0o604


def test_an_account_whose_password_is_in_passwd_is_led_to_shadow(image: Path) -> None:
    """An empty field there would let anybody in, whatever shadow says."""
    (image / "etc/passwd").write_text("live::1000:1001::/home:/x\nroot::0:0:root:/root:/bin/sh\n")
    set_(image, "live", text="sesame")
    assert (image / "etc/passwd").read_text() == (
        "live:x:1000:1001::/home:/x\nroot::0:0:root:/root:/bin/sh\n"
    )


def test_a_shadow_that_is_a_link_is_written_inside_the_image(image: Path, tmp_path: Path) -> None:
    victim = tmp_path / "shadow"
    victim.write_text("root:*:1::::::\n")
    (image / "etc/shadow").symlink_to(victim)
    set_(image, "live", text="sesame")
    assert victim.read_text() == "root:*:1::::::\n"


def test_an_account_that_useradd_did_not_make_is_missed(image: Path) -> None:
    with pytest.raises(CheckpointError, match="the image has no account new"):
        set_(image, "new", text="sesame")


@pytest.mark.parametrize("secret", ["a:b", "$6$x$y\nroot::0", "plain", "x" * 600, "$6$a:b"])
def test_a_password_that_is_refused_is_not_told(
    image: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("DCD_SECRET_LIVE", secret)
    with pytest.raises(CheckpointError, match="the password of live") as caught:
        set_(image, "live", hashed=len(secret) < 512, env="DCD_SECRET_LIVE")
    assert secret not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not (image / "etc/shadow").exists()


RECORD = (
    '#!/bin/sh\nwhile read -r line || [ -n "$line" ]; do echo "saw $line"; line=; done >> /stolen\n'
)
LOOK = """
echo "$0 $@" >> /stolen
export -p >> /stolen
for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do
    while read -r line || [ -n "$line" ]; do echo "saw $line"; line=; done <$file >> /stolen
done 2>/dev/null
exit 0
"""


@pytest.mark.root
def test_no_program_of_the_image_gets_a_password(
    bench: Any, own_mounts: None, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever submits a manifest brings the image's programs, and may lend a secret to none of them."""
    bench.add_shell()
    for directory in ("etc/default", "usr/sbin", "usr/bin", "var/lib/dbus", "var/lib/apt/lists"):
        (bench.image / directory).mkdir(parents=True, exist_ok=True)
    for name in ("passwd", "group"):
        (bench.image / "etc" / name).write_text((image / "etc" / name).read_text())
    for name in ("chpasswd", "passwd", "usermod", "useradd", "chage", "pwconv", "openssl"):
        for directory in ("usr/sbin", "usr/bin"):
            program = bench.image / directory / name
            program.write_text(RECORD + LOOK)
            program.chmod(0o755)
    monkeypatch.setenv("DCD_SECRET_LIVE", "lent-by-the-server")
    bench.execute(
        DebianPrePkgImgMod("c"),
        '<configuration name="c"><user name="live" groups="live"><password env="DCD_SECRET_LIVE"/></user>'
        '<user name="root"><password>of-the-manifest</password></user></configuration>',
    )
    stolen = (bench.image / "stolen").read_text(errors="replace")
    assert "--append --groups live live" in stolen
    assert "lent-by-the-server" not in stolen
    assert "of-the-manifest" not in stolen
    hashes = {line.split(":")[0]: line.split(":")[1] for line in shadow(bench.image)}
    assert is_hash_of(hashes["live"], "lent-by-the-server")
    assert is_hash_of(hashes["root"], "of-the-manifest")
