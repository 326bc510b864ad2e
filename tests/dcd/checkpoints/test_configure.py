"""DebianPrePkgImgMod: what it writes, where it writes it, and what it refuses. One test configures a real
Debian system; the others use an image with a shell and stand-ins for the tools at its edge."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.image.accounts import owner_ids
from dcd.checkpoints.image.configure import DebianPrePkgImgMod
from dcd.checkpoints.transfer.deb import TransferDEB
from dcd.manifest.diagnostics import refuse
from dcd.platform.apt import host_codename, host_sources, sources_for
from statemachine.errors import CheckpointError, InvalidManifest, Unprepared
from tests.dcd.checkpoints.conftest import KEY, add_tool, archive, calls


def users(inner: str) -> str:
    return f'<configuration name="c" type="user">{inner}</configuration>'


def network(inner: str) -> str:
    return f'<configuration name="c" type="network">{inner}</configuration>'


def add_file(source: str, dest: str, **attributes: str) -> str:
    more = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    return f'<configuration name="c" source="{source}" dest="{dest}" {more}/>'


@pytest.mark.root
def test_the_system_is_named(bench: Any, image: Path) -> None:
    bench.execute(DebianPrePkgImgMod("c", hostname="box.example.org"))
    assert (image / "etc/hostname").read_text() == "box\n"
    assert "127.0.1.1\tbox.example.org box\n" in (image / "etc/hosts").read_text()
    assert (image / "etc/default/locale").read_text() == "LANG=C.UTF-8\n"


@pytest.mark.root
def test_links_of_the_image_do_not_lead_to_the_host(
    bench: Any, image: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("host")
    for name in ("hostname", "hosts", "machine-id", "resolv.conf", "default/locale", "motd"):
        (image / "etc" / name).symlink_to(victim)
    (tmp_path / "blob").write_text("hello")
    bench.execute(
        DebianPrePkgImgMod("c", hostname="box"),
        add_file("motd", "/etc/motd"),
        inputs={"motd": tmp_path / "blob"},
    )
    assert victim.read_text() == "host"
    assert (image / "etc/motd").read_text() == "hello"


def shadow(image: Path, name: str) -> list[str]:
    lines = (image / "etc/shadow").read_text().splitlines()
    (fields,) = [line.split(":") for line in lines if line.split(":")[0] == name]
    return fields


def is_hash_of(value: str, password: str) -> bool:
    _, kind, salt, _ = value.split("$")
    command = ["openssl", "passwd", f"-{kind}", "-salt", salt, "-stdin"]
    made = subprocess.run(command, input=password.encode(), capture_output=True, check=True)
    return made.stdout.decode().strip() == value


@pytest.mark.root
def test_users_are_created_or_changed_and_get_their_passwords(
    bench: Any, image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    add_tool(image, "usr/sbin/useradd", "echo new:x:1500:1500::/home/new:/bin/sh >> /etc/passwd\n")
    bench.execute(
        DebianPrePkgImgMod("c"),
        users(
            '<user name="new" full_name="New User" uid="1500" groups="sudo, live" shell="/bin/sh">'
            '<password>pass word</password></user><user name="live" groups="sudo">'
            '<password hashed="true">$6$salt$hash</password></user>'
            '<user name="root"><password locked="true"/></user>'
        ),
    )
    assert calls(image) == [
        "useradd --create-home --comment New User --uid 1500 --shell /bin/sh --groups sudo,live new",
        "usermod --append --groups sudo live",
        "usermod --lock root",
    ]
    assert is_hash_of(shadow(image, "new")[1], "pass word")
    assert shadow(image, "live")[1] == "$6$salt$hash"
    assert shadow(image, "live")[3:] == ["0", "99999", "7", "", "", ""]
    assert "pass word" not in capfd.readouterr().err


@pytest.mark.root
def test_a_password_by_reference_comes_from_the_daemons_environment(
    bench: Any, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCD_SECRET_LIVE", "sesame")
    live = '<user name="live"><password env="DCD_SECRET_LIVE"/></user>'
    bench.execute(DebianPrePkgImgMod("c"), users(live))
    assert is_hash_of(shadow(image, "live")[1], "sesame")


@pytest.mark.root
def test_a_group_that_the_image_does_not_have_is_named(bench: Any, image: Path) -> None:
    with pytest.raises(CheckpointError, match="no group docker"):
        bench.execute(DebianPrePkgImgMod("c"), users('<user name="live" groups="sudo docker"/>'))
    assert calls(image) == []


@pytest.mark.root
def test_files_are_added_with_mode_and_owner_of_the_image(
    bench: Any, image: Path, tmp_path: Path
) -> None:
    (tmp_path / "blob").write_bytes(b"\x00data")
    (image / "usr/own").write_text("own")
    bench.execute(
        DebianPrePkgImgMod("c"),
        add_file("files/x", "/opt/new dir/x", mode="4750", owner="live:sudo"),
        add_file("files/x", "/opt/y", owner="live"),
        add_file("{PKG_IMAGE_PATH}/usr/own", "/opt/z"),
        inputs={"files/x": tmp_path / "blob"},
    )
    status = (image / "opt/new dir/x").stat()
    assert (image / "opt/new dir/x").read_bytes() == b"\x00data"
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o4750, 1000, 27)
    status = (image / "opt/y").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o644, 1000, 1001)
    assert (image / "opt/z").read_text() == "own"


@pytest.mark.root
def test_each_machine_makes_its_own_identity(bench: Any, image: Path) -> None:
    (image / "etc/machine-id").write_text("0123456789abcdef\n")
    (image / "var/lib/dbus/machine-id").write_text("0123456789abcdef\n")
    (image / "var/lib/apt/lists/mirror_Packages").write_text("x")
    bench.execute(DebianPrePkgImgMod("c"))
    assert (image / "etc/machine-id").read_bytes() == b""
    assert not (image / "var/lib/dbus/machine-id").exists()
    assert os.listdir(image / "var/lib/apt/lists") == ["partial"]  # noqa: PTH208


@pytest.mark.root
def test_systemd_networkd_gets_a_file_for_each_interface(bench: Any, image: Path) -> None:
    (image / "usr/lib/systemd").mkdir(parents=True)
    (image / "usr/lib/systemd/systemd-networkd").touch()
    add_tool(image, "usr/bin/systemctl")
    bench.execute(
        DebianPrePkgImgMod("c", serial_console="ttyS0,115200", enable_services=("ssh",)),
        network(
            '<interface match="en*"/><interface match="eth9" dhcp="false" address="192.0.2.5/24"'
            ' gateway="192.0.2.1" dns="192.0.2.53 2001:db8::53" domains="example.org"/>'
        ),
    )
    files = sorted((image / "etc/systemd/network").iterdir())
    assert files[0].read_text() == "[Match]\nName=en*\n\n[Network]\nDHCP=yes\n"
    assert files[1].read_text() == (
        "[Match]\nName=eth9\n\n[Network]\nAddress=192.0.2.5/24\nGateway=192.0.2.1\n"
        "DNS=192.0.2.53\nDNS=2001:db8::53\nDomains=example.org\n"
    )
    assert (image / "etc/resolv.conf").read_text() == (
        "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch example.org\n"
    )
    assert calls(image) == [
        "systemctl enable systemd-networkd.service",
        "systemctl enable ssh.service",
        "systemctl enable serial-getty@ttyS0.service",
    ]


@pytest.mark.root
def test_systemd_resolved_owns_the_resolver_where_it_is(bench: Any, image: Path) -> None:
    (image / "usr/lib/systemd").mkdir(parents=True)
    (image / "usr/lib/systemd/systemd-resolved").touch()
    add_tool(image, "usr/bin/systemctl")
    bench.execute(DebianPrePkgImgMod("c"))
    link = (image / "etc/resolv.conf").readlink()
    assert link == Path("../run/systemd/resolve/stub-resolv.conf")
    assert calls(image) == ["systemctl enable systemd-resolved.service"]


@pytest.mark.root
def test_ifupdown_serves_an_image_without_systemd(bench: Any, image: Path) -> None:
    add_tool(image, "usr/sbin/ifup")
    bench.execute(
        DebianPrePkgImgMod("c"),
        network(
            '<interface match="eth0" dhcp="false" address="192.0.2.5/24 2001:db8::5/64"'
            ' gateway="192.0.2.1"/>'
        ),
    )
    assert (image / "etc/network/interfaces.d/dcd-eth0").read_text() == (
        "auto eth0\niface eth0 inet static\n    address 192.0.2.5/24\n    gateway 192.0.2.1\n"
        "iface eth0 inet6 static\n    address 2001:db8::5/64\n"
    )
    with pytest.raises(CheckpointError, match=r"by the pattern en\*"):
        bench.execute(DebianPrePkgImgMod("c"), network('<interface match="en*"/>'))


@pytest.mark.root
def test_a_file_in_a_home_leaves_all_on_the_way_to_it_to_the_user(
    bench: Any, image: Path, tmp_path: Path
) -> None:
    (image / "home/x").mkdir(parents=True)
    os.chown(image / "home/x", 1000, 1001)
    (tmp_path / "blob").write_text("key")
    bench.execute(
        DebianPrePkgImgMod("c"),
        add_file("key", "/home/x/.ssh/authorized_keys", mode="0600", owner="live"),
        add_file("key", "/home/x/.config/app/settings", owner="live"),
        inputs={"key": tmp_path / "blob"},
    )
    found = {
        path: ((image / path).stat().st_uid, oct((image / path).stat().st_mode & 0o7777))
        for path in ("home/x/.ssh", "home/x/.config", "home/x/.config/app")
    }
    assert found == {
        "home/x/.ssh": (1000, "0o700"),
        "home/x/.config": (1000, "0o755"),
        "home/x/.config/app": (1000, "0o755"),
    }


@pytest.mark.root
def test_what_new_accounts_are_made_from_is_there_before_them(
    bench: Any, image: Path, tmp_path: Path
) -> None:
    add_tool(image, "usr/sbin/useradd", "echo /etc/skel/* /opt/* >> /calls\n")
    (tmp_path / "blob").write_text("x")
    bench.execute(
        DebianPrePkgImgMod("c"),
        users('<user name="new"/>'),
        add_file("f", "/opt/later"),
        add_file("f", "/etc/skel/first"),
        inputs={"f": tmp_path / "blob"},
    )
    assert calls(image) == ["useradd --create-home new", "/etc/skel/first /opt/*"]
    assert (image / "opt/later").exists()


@pytest.mark.root
def test_the_home_of_an_account_that_is_there_moves_or_is_made(bench: Any, image: Path) -> None:
    (image / "home/x").mkdir(parents=True)
    with (image / "etc/passwd").open("a") as accounts:
        accounts.write("none:x:7:8::/nonexistent:/bin/sh\n")
    bench.execute(
        DebianPrePkgImgMod("c"),
        users('<user name="live" home="/srv/live"/><user name="none" home="/srv/none"/>'),
    )
    assert calls(image) == [
        "usermod --home /srv/live --move-home live",
        "usermod --home /srv/none none",
    ]
    status = (image / "srv/none").stat()
    assert (status.st_uid, status.st_gid) == (7, 8)


@pytest.mark.root
def test_accounts_have_the_day_of_the_builds_time_and_the_same_hash_each_time(
    bench: Any, image: Path
) -> None:
    line = "new:x:1500:1500::/home/new:/bin/sh"
    add_tool(
        image,
        "usr/sbin/useradd",
        f'echo "time $SOURCE_DATE_EPOCH" >> /calls\necho {line} >> /etc/passwd\n',
    )
    doc = bench.doc(
        users(
            '<user name="new"><password>plain</password></user>'
            '<user name="live"><password hashed="true">$6$salt$hash</password></user>'
        )
    )
    environment = {"SOURCE_DATE_EPOCH": str(20000 * 86400 + 5)}
    DebianPrePkgImgMod("c").execute(bench.context(doc, environment=environment))
    assert calls(image) == ["useradd --create-home new", f"time {20000 * 86400 + 5}"]
    assert [shadow(image, name)[2] for name in ("new", "live")] == ["20000", "20000"]
    first = (image / "etc/shadow").read_text()
    DebianPrePkgImgMod("c").execute(bench.context(doc, environment=environment))
    assert (image / "etc/shadow").read_text() == first


@pytest.mark.root
def test_a_second_configuration_adds_to_the_first(bench: Any, image: Path) -> None:
    (image / "usr/lib/systemd").mkdir(parents=True)
    (image / "usr/lib/systemd/systemd-networkd").touch()
    add_tool(image, "usr/bin/systemctl")
    bench.execute(
        DebianPrePkgImgMod("c", hostname="box.example.org"),
        network('<interface match="eth0" dns="192.0.2.53"/><interface match="eth1"/>'),
    )
    bench.execute(
        DebianPrePkgImgMod("c"),
        network('<interface match="eth2"/><interface match="eth1" domains="example.org"/>'),
    )
    directory = image / "etc/systemd/network"
    matches = {file.name: file.read_text().split("\n")[1] for file in directory.iterdir()}
    assert matches == {
        "10-dcd.network": "Name=eth0",
        "11-dcd.network": "Name=eth1",
        "12-dcd.network": "Name=eth2",
    }
    assert "Domains=example.org" in (directory / "11-dcd.network").read_text()
    bench.execute(DebianPrePkgImgMod("c"))
    assert "box.example.org" in (image / "etc/hosts").read_text()
    assert "nameserver 192.0.2.53\nsearch example.org" in (image / "etc/resolv.conf").read_text()


@pytest.mark.root
def test_the_speed_of_a_serial_console_reaches_its_login(bench: Any, image: Path) -> None:
    add_tool(image, "usr/bin/systemctl")
    bench.execute(DebianPrePkgImgMod("c", serial_console="ttyS1,9600n8"))
    (text,) = (image / "etc/systemd/system").glob("serial-getty@ttyS1.service.d/*.conf")
    assert "ExecStart=\nExecStart=-/sbin/agetty -o '-p -- \\\\u' 9600 -" in text.read_text()
    assert calls(image) == ["systemctl enable serial-getty@ttyS1.service"]


@pytest.mark.root
def test_name_servers_reach_the_resolver_that_the_image_has(bench: Any, image: Path) -> None:
    add_tool(image, "usr/sbin/ifup")
    add_tool(image, "usr/bin/systemctl")
    (image / "usr/lib/systemd").mkdir(parents=True)
    (image / "usr/lib/systemd/systemd-resolved").touch()
    bench.execute(
        DebianPrePkgImgMod("c"),
        network(
            '<interface match="eth0" dhcp="false" address="192.0.2.5/24 192.0.2.6/24"'
            ' gateway="192.0.2.1" dns="192.0.2.53" domains="example.org"/>'
        ),
    )
    told = (image / "etc/systemd/resolved.conf.d/dcd.conf").read_text()
    assert told == "[Resolve]\nDNS=192.0.2.53\nDomains=example.org\n"
    assert (image / "etc/network/interfaces.d/dcd-eth0").read_text().count("gateway") == 1


@pytest.mark.root
@pytest.mark.parametrize(
    ("arguments", "message", "resolution"),
    [
        ({"timezone": "Europe/Nowhere"}, "does not know the time zone", "tzdata"),
        ({"enable_services": ("ssh",)}, "cannot enable services", "systemd-sysv"),
    ],
)
def test_what_the_image_lacks_is_told_with_its_package(
    bench: Any, image: Path, arguments: Any, message: str, resolution: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        bench.execute(DebianPrePkgImgMod("c", **arguments))
    assert resolution in caught.value.resolution


@pytest.mark.parametrize(
    ("arguments", "elements", "message"),
    [
        (
            {"enable_services": ("a",), "disable_services": ("a.service",)},
            [],
            "both enabled and disabled",
        ),
        ({}, [users('<user name="a"><password/></user>')], "password of a is empty"),
        (
            {},
            [users('<user name="a"><password locked="true">x</password></user>')],
            "password of a is given twice",
        ),
        (
            {},
            [users('<user name="a"><password hashed="true">plain</password></user>')],
            "no crypt",
        ),
        ({}, [network('<interface match="e" address="192.0.2.1"/>')], "with its prefix length"),
        ({}, [network('<interface match="e" address="x/24"/>')], "not addresses"),
        ({}, [network('<interface match="e" dns="dns.example"/>')], "not addresses"),
        ({}, ['<configuration name="c" source="motd"/>'], "needs dest"),
        ({}, [add_file("motd", "etc/motd")], "not an absolute path"),
    ],
)
def test_what_makes_no_sense_is_refused_at_check(
    bench: Any, arguments: Any, elements: list[str], message: str
) -> None:
    with pytest.raises(InvalidManifest, match=message):
        refuse(DebianPrePkgImgMod("c", **arguments).check(bench.doc(*elements)))


def test_owners_are_looked_up_in_the_image(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("app:x:70000:70001::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("team:x:70002:app\n")
    assert owner_ids(tmp_path, "app") == (70000, 70001)
    assert owner_ids(tmp_path, "app:team") == (70000, 70002)
    assert owner_ids(tmp_path, "70000") == (70000, 70001)
    assert owner_ids(tmp_path, "1:2") == (1, 2)
    with pytest.raises(CheckpointError, match="no group root"):
        owner_ids(tmp_path, "app:root")
    with pytest.raises(CheckpointError, match="no user root"):
        owner_ids(tmp_path, "root")


@pytest.mark.system
@pytest.mark.root
@pytest.mark.timeout(900)
def test_a_real_system_is_configured(bench: Any, own_mounts: None, tmp_path: Path) -> None:
    suite = host_codename()
    try:
        sources_for(host_sources(), suite, ["main"])
    except Unprepared as error:
        pytest.skip(f"this host has no apt sources: {error.brief}")
    packages = "".join(
        f"<name>{name}</name>" for name in ("systemd-sysv", "locales", "openssh-server", "sudo")
    )
    bench.execute(
        TransferDEB("t"),
        f'<software name="t" type="DEB"><destination><image variant="minbase"/></destination>'
        f'<source><repository suite="{suite}"/></source><software_data>{packages}</software_data>'
        "</software>",
    )
    (tmp_path / "blob").write_text("key")
    checkpoint = DebianPrePkgImgMod(
        "c",
        hostname="box",
        locale="en_GB.UTF-8",
        timezone="Europe/Vienna",
        serial_console="ttyS0",
    )
    doc = bench.doc(
        users(
            '<user name="live" groups="sudo" shell="/bin/bash"><password>live</password>'
            f'<ssh_key>{KEY}</ssh_key><sudo nopasswd="true"/></user>'
            '<user name="root"><password locked="true"/></user>'
        ),
        '<configuration name="c"><unit source="hello.service"/><unit name="ssh"/>'
        '<tree source="site" dest="/home/live/site" owner="live"/>'
        "<script>id -un live > /made; ls /home/live/site >> /made</script></configuration>",
        network('<interface match="en*"/>'),
        add_file("key", "/home/live/.ssh/authorized_keys", mode="0600", owner="live"),
    )
    environment = {"SOURCE_DATE_EPOCH": str(20000 * 86400)}
    (tmp_path / "site").mkdir()
    (tmp_path / "site/page").write_text("hello")
    (tmp_path / "hello").write_text(
        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
    )
    inputs = {
        "key": tmp_path / "blob",
        "site": archive(tmp_path / "site", tmp_path / "site.tar"),
        "hello.service": tmp_path / "hello",
    }
    checkpoint.execute(bench.context(doc, inputs=inputs, environment=environment))
    image = bench.image
    fields = [line.split(":") for line in (image / "etc/shadow").read_text().splitlines()]
    shadow = {name: password for name, password, *_ in fields}
    assert {line[2] for line in fields if line[0] == "live"} == {"20000"}
    crypt = ["chroot", image, "perl", "-e", "print crypt('live', $ARGV[0])", shadow["live"]]
    assert subprocess.run(crypt, capture_output=True, text=True).stdout == shadow["live"]
    assert shadow["root"].startswith("!")
    assert "sudo:x:27:live" in (image / "etc/group").read_text()
    assert os.path.realpath(image / "etc/localtime").endswith("zoneinfo/Europe/Vienna")
    units = image / "etc/systemd/system"
    assert os.path.lexists(units / "getty.target.wants/serial-getty@ttyS0.service")
    assert os.path.lexists(units / "multi-user.target.wants/systemd-networkd.service")
    assert os.path.lexists(units / "multi-user.target.wants/ssh.service")
    assert os.path.lexists(units / "multi-user.target.wants/hello.service")
    keys = image / "home/live/.ssh/authorized_keys"
    assert (keys.stat().st_uid, keys.read_text()) == (1000, f"key\n{KEY}\n")
    assert (image / "home/live/site/page").stat().st_uid == 1000
    assert (image / "made").read_text() == "live\npage\n"
    # The image's own programs agree: the key, and the rights without a password.
    check = ["chroot", image, "ssh-keygen", "-l", "-f", "/home/live/.ssh/authorized_keys"]
    assert "ED25519" in subprocess.run(check, capture_output=True, text=True).stdout
    rights = ["chroot", image, "visudo", "--check"]
    assert subprocess.run(rights, capture_output=True).returncode == 0
    allowed = ["chroot", image, "sudo", "-l", "-U", "live"]
    assert "NOPASSWD: ALL" in subprocess.run(allowed, capture_output=True, text=True).stdout
    with pytest.raises(CheckpointError, match=r"cannot enable shh\.service") as caught:
        bench.execute(DebianPrePkgImgMod("c", enable_services=("shh",)))
    assert "ssh.service" in caught.value.resolution
    assert str(image) not in Path("/proc/self/mounts").read_text()
