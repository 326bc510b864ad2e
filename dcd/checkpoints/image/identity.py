"""The identity of a machine, which each makes for itself: it is removed from an image that many start from.

Every checkpoint that completes or packs an image (file system of a live medium, disk, transfer) calls
`remove_identity`, so that no delivered image has a private key, id, seed, lease or log of one machine. A
service makes those again that do not come back by themselves at a start.

Source: machine-id(5), systemd-random-seed.service(8), systemd-creds(1), ssh-keygen(1), dropbearkey(1),
make-ssl-cert(8), dhclient(8), dhcpcd(8), NetworkManager(8), iscsi-iname(8), nvme-gen-hostnqn(1), cloud-init's
documentation of `cloud-init clean`.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dcd.platform.inside import entry, exists, make_directory, read, resolve, write

_REMOVED = (
    # Keys.
    *("etc/ssh/ssh_host_*", "etc/dropbear/dropbear_*_host_key*"),
    *("etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem"),
    *("var/lib/systemd/credential.secret", "var/lib/NetworkManager/secret_key"),
    # Ids and seeds.
    *("var/lib/dbus/machine-id", "etc/hostid", "etc/nvme/hostnqn", "etc/nvme/hostid"),
    *("var/lib/systemd/random-seed", "var/lib/urandom/random-seed", "boot/efi/loader/random-seed"),
    *("var/lib/cloud/instance", "var/lib/cloud/instances/*", "var/lib/cloud/data/*"),
    "etc/udev/rules.d/70-persistent-net.rules",
    # Leases of networks, and the ids for them.
    *("var/lib/dhcp/*.lease*", "var/lib/dhcpcd/*", "var/lib/dhcpcd5/*", "etc/dhcpcd.duid"),
    *("var/lib/NetworkManager/*.lease", "var/lib/NetworkManager/timestamps"),
    *("var/lib/NetworkManager/seen-bssids", "var/lib/systemd/network/*"),
    # Logs that are removed instead of emptied.
    "var/log/journal/*",
)
"""Paths of the image, with patterns in the last part."""

_ISCSI_NAME = "etc/iscsi/initiatorname.iscsi"


@dataclass(frozen=True, slots=True)
class _Renewal:
    """A service that makes a missing part of the identity. The image needs it if it has `program`;
    `condition` is a line of the unit, `before` are the services that wait for it."""

    name: str
    program: str
    condition: str
    command: str
    before: tuple[str, ...]


_UNIT = """\
[Unit]
Description=Make {name} of this machine
Before={before}
{condition}

[Service]
Type=oneshot
ExecStart={command}
"""

_SSH = _Renewal(
    "ssh-host-keys",
    "usr/sbin/sshd",
    "ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key",
    "/usr/bin/ssh-keygen -A",
    ("ssh.service", "ssh.socket"),
)
_SSH_SCRIPT, _SSH_SETTINGS = "etc/init.d/ssh", "etc/default/ssh"
_SSH_LINE = """\
# Make the missing host keys of this machine.
/usr/bin/ssh-keygen -A > /dev/null
"""
"""For an image that starts with scripts. Source: /etc/init.d/ssh of Debian, which executes
/etc/default/ssh before it looks for keys."""

_RENEWALS = (
    _SSH,
    _Renewal(
        "dropbear-host-keys",
        "usr/bin/dropbearkey",
        "ConditionPathExistsGlob=!/etc/dropbear/dropbear_*_host_key",
        "/bin/sh -c 'for type in rsa ecdsa ed25519; do"
        " dropbearkey -t $type -f /etc/dropbear/dropbear_$${type}_host_key; done'",
        ("dropbear.service", "dropbear.socket"),
    ),
    _Renewal(
        "snakeoil-certificate",
        "usr/sbin/make-ssl-cert",
        "ConditionPathExists=!/etc/ssl/private/ssl-cert-snakeoil.key",
        "/usr/sbin/make-ssl-cert generate-default-snakeoil",
        (
            *("apache2.service", "nginx.service", "postfix.service", "exim4.service"),
            *("dovecot.service", "postgresql.service", "multi-user.target"),
        ),
    ),
)


NO_HOST_KEYS = (
    "the image has an SSH server, and neither systemd nor /etc/init.d/ssh to make its host keys: run "
    "ssh-keygen -A on each machine before the server starts"
)


def remove_identity(root: Path) -> None:
    """Remove the identity of a machine from an image, or from a part of one. Idempotent."""
    for path in _found(root):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if exists(root, "etc/machine-id") or exists(root, "usr/lib/systemd/systemd"):
        # With an empty file, a system without a writable /etc can have an id in memory.
        write(root, "etc/machine-id", "", mode=0o444)
    if exists(root, _ISCSI_NAME):
        write(root, _ISCSI_NAME, "GenerateName=yes\n", mode=0o600)
    _empty_logs(resolve(root, "var/log"))
    for renewal in _RENEWALS:
        if exists(root, renewal.program):
            _renew(root, renewal)
    script = exists(root, _SSH_SCRIPT) and not exists(root, "usr/lib/systemd/systemd")
    settings = read(root, _SSH_SETTINGS) or ""
    if script and exists(root, _SSH.program) and _SSH_LINE not in settings:
        # The script that starts the server reads its settings first.
        end = "" if settings.endswith("\n") or not settings else "\n"
        write(root, _SSH_SETTINGS, f"{settings}{end}{_SSH_LINE}")


def without_host_keys(root: Path) -> bool:
    """Whether the image has an SSH server and nothing that makes its keys."""
    return (
        exists(root, _SSH.program)
        and not exists(root, "usr/lib/systemd/systemd")
        and not exists(root, _SSH_SCRIPT)
    )


def make_host_keys(root: Path) -> None:
    """Let each machine make its missing SSH host keys before its server starts."""
    _renew(root, _SSH)


def _found(root: Path) -> Iterator[Path]:
    for pattern in _REMOVED:
        directory, _, last = pattern.rpartition("/")
        if "*" in last:
            yield from sorted(resolve(root, directory).glob(last))
        elif os.path.lexists(path := entry(root, pattern)):
            yield path


def _empty_logs(directory: Path) -> None:
    """Empty every log, and keep the file: some services cannot make theirs again."""
    for where, _, names in os.walk(directory):
        for name in names:
            file = Path(where, name)
            status = file.lstat()
            if not stat.S_ISREG(status.st_mode):
                continue
            if status.st_nlink > 1:  # The other name may be no log.
                file.unlink()
            elif status.st_size:
                os.truncate(file, 0)


def _renew(root: Path, renewal: _Renewal) -> None:
    unit = f"{renewal.name}.service"
    text = _UNIT.format(
        name=renewal.name.replace("-", " "),
        before=" ".join(renewal.before),
        condition=renewal.condition,
        command=renewal.command,
    )
    write(root, f"etc/systemd/system/{unit}", text)
    for wanting in renewal.before:
        directory = make_directory(root, f"etc/systemd/system/{wanting}.wants")
        link = directory / unit
        link.unlink(missing_ok=True)
        link.symlink_to(f"/etc/systemd/system/{unit}")
