"""Forms: which texts the languages can hold that a manifest's texts end in, and which are refused."""

from typing import Annotated, Any

import pytest

from dcd.checkpoints.custom_script import CustomScript
from dcd.checkpoints.image.configure import DebianPrePkgImgMod
from dcd.checkpoints.media.iso import CreateISO
from dcd.checkpoints.vm.install_iscsi import InstallISCSI
from dcd.checkpoints.vm.relabel import Relabel
from dcd.construction.arguments import BadArguments, match_arguments
from dcd.manifest import forms
from dcd.manifest.objects import Format, Password, Repository
from dcd.manifest.values import BadValue, Form, convert, expected, form_of, free, size_bytes

FORMS = {name: form for name, form in vars(forms).items() if isinstance(form, Form)}

RIGHT = {
    "DELIVERED": ("root.tar", "{MEDIA_DIR}/out/root.tar"),
    "APT_URI": (
        "http://[2001:db8::1]:8080/debian/",
        "https://deb.example.com/debian?x=y",
        "file:///srv/repo",
        "mirror+http://example.com/list",
        "http://my_mirror:65535",
        "http://localhost:1/x:99999/",
        "https://user:word@example.com:443/debian",
        "copy:/srv/a:70000",
    ),
    "ARCHITECTURE": ("amd64", "kfreebsd-amd64", "musl-linux-armhf"),
    "AREA_PATH": ("{BOOT_ARCHIVE}", "{PKG_IMAGE_PATH}/opt/%{//distro.name}/x", "{TMP_DIR}/a..b"),
    "ADDRESSES": ("192.0.2.1 2001:db8::1",),
    "ADDRESSES_WITH_PREFIX": ("192.0.2.1/24 2001:db8::1/64",),
    "COMPONENTS": ("main", "main contrib non-free-firmware", "updates/main"),
    "DISTRIBUTION": ("a", "Debian 12_live", "x" * 32),
    "FILE_NAME": ("disk.img", "my disk+1.raw"),
    "FULL_NAME": ("", 'Ada, Countess of "Lovelace"', "Jos\u00e9"),
    "HOST_NAME": ("box", "a.example.com"),
    "IMAGE_PATH": ("/etc/motd", "/opt/a b/..c"),
    "INTERFACE": ("en*", "eth0 eth1", "wlan?"),
    "IPS_ORIGIN": ("http://a:10000/r", "file:/srv/r", "/srv/a b.p5p", "https://[::1]:443"),
    "LOCALE": ("C", "C.UTF-8", "en_GB", "sr_RS@latin", "tt_RU@iqtelif.UTF-8", "ber_DZ.UTF-8"),
    "ISCSI_NAME": ("iqn.2026-01.com.example:disk.1", "eui.02004567a425678d"),
    "KERNEL_ARGUMENTS": ("", "quiet a='b c'\n  d", '"$x;{}"'),
    "LINE": ('it\'s "quoted"; ${x} %{y} -- \\ #',),
    "MOUNTPOINT": ("/", "/srv/my data"),
    "MOUNT_OPTIONS": ("defaults", "errors=remount-ro,noatime", "compress=zstd:3"),
    "PASSWORD_HASH": ("$6$salt$" + "a" * 86, "$y$j9T$salt./$hash", "$2b$05$abc./"),
    "PROXY": (
        "http://127.0.0.1:3128",
        "http://x:65535",
        "https://[::1]:8080/",
        "socks5h://proxy.example.com:1080",
    ),
    "SUITE": ("bookworm", "bookworm-updates", "stable/updates", "./", "12.1~rc"),
    "UNIT": ("ssh", "getty@tty1.service", "dev-disk-by\\x2dlabel.mount"),
    "VARIABLE": ("A=", "LANG=C UTF;8\n$x"),
    "VOLUME_ID": ("MY-IMAGE", "a b", "+"),
}

WRONG = {
    "DELIVERED": (
        *("../root.tar", "{MEDIA_DIR}/../x", "/etc/passwd", "{PKG_IMAGE_PATH}/x", "", ".hidden"),
        *("{MEDIA_DIR}", "a\nb", "out/", "%{//distro.name}"),
    ),
    "APT_URI": (
        "deb.example.com",
        "-o",
        "http://a b/",
        'http://a/"; X',
        "http://a/\nX: y",
        "store:/etc/x",
        "http://a:0/debian",
        "http://a:65536/",
        "https://[::1]:99999/",
        "ftp://a:-1/",
        "tor+http://a:70000",
        "http://u:p@a:70000/",
        "http:/debian",
    ),
    "IPS_ORIGIN": ("http://a:0/", "https://a:65536", "http://:80/", "ftp://a/", "a/b"),
    "LOCALE": ("english", "en-GB", "EN_gb", "en_GB.", "de_AT@", "C_UTF", ""),
    "TIME_ZONE": ("", "/x", "x/", "a//b", "../x", "Europe/New York"),
    "ARCHITECTURE": ("", "-x", 'amd64"', "amd64;", "AMD64", "a b", "a\nb"),
    "AREA_PATH": (
        "/etc",
        "{PKG_IMAGE_PATH}x",
        "{PKG_IMAGE_PATH}/../x",
        "{TMP_DIR}/%{//x}/..",
        "%{//x}",
        "a{TMP_DIR}",
    ),
    "ADDRESSES": ("dns.example", "192.0.2.256", "192.0.2.1/24"),
    "ADDRESSES_WITH_PREFIX": ("192.0.2.1", "192.0.2.1/33"),
    "COMPONENTS": ("", "-x", "main;", "main\ncontrib"),
    "DISTRIBUTION": ("", "../x", "a/b", "-x", "x" * 33, "a.", "\u00fc"),
    "FILE_NAME": ("", "a/b", "..", "-x", "a@@1", "a?offset=1", "a,b", "a:b"),
    "FULL_NAME": ("a:b", "a\nb", "\x7f"),
    "HOST_NAME": ("bad_name", "-box", "a..b", "x" * 64, "a b"),
    "IMAGE_PATH": ("etc/motd", "/etc/../x", "/..", "/", "/etc/", "/a\nb"),
    "INTERFACE": ("", "en*\n[Match]", "a=b", "[x]"),
    "ISCSI_NAME": (
        "disk",
        "iqn.2026-01.com.example:a,b",
        "iqn.2026-01.E",
        "iqn.2026-01.x:" + "a" * 223,
    ),
    "KERNEL_ARGUMENTS": ("a='b", "a='b\nc'", "x" * 2048),
    "LINE": ("", "a\nb", "a\tb", "\x00", "\x1b[2J", "a\u2028b", "x" * 256),
    "MOUNTPOINT": ("srv", "/srv/", "/a/../b", "//a", "/a\tb"),
    "MOUNT_OPTIONS": ("", "ro, noatime", 'a"b', "x=#", "ro,,rw"),
    "PASSWORD_HASH": ("plain", "$6$salt$a:b", "$6$salt$a\nroot::0"),
    "PROXY": (
        'http://x"; Dir::Bin::Methods "/home/u/"; X "',
        "http://x;",
        "http://x:0",
        "http://x:65536",
        "http://a b",
        "-x",
        "x",
        "http://u:p@x:1",
        "file:///etc",
        "http://x\n",
        "http://",
    ),
    "SUITE": ("", "-x", "--setup-hook=x", "a b", "a;b", "../x", 'a"b', "a\nb", "$(ARCH)/"),
    "UNIT": ("-x", "--root=/", "a b", "a/b", "a;b"),
    "VARIABLE": ("NAME", "1A=x", "A B=x"),
    "VOLUME_ID": ("", "x" * 33, "\u00fc", "a/b", " a", "a\n"),
}


@pytest.mark.parametrize(
    ("name", "text"), [(n, text) for n, all_ in RIGHT.items() for text in all_]
)
def test_a_text_of_the_form_is_accepted(name: str, text: str) -> None:
    FORMS[name].check(text)


@pytest.mark.parametrize(
    ("name", "text"), [(n, text) for n, all_ in WRONG.items() for text in all_]
)
def test_another_text_is_refused_with_what_was_expected(name: str, text: str) -> None:
    with pytest.raises(BadValue) as caught:
        FORMS[name].check(text)
    assert caught.value.expected


def test_components_with_commas_are_suggested_as_a_list() -> None:
    assert forms.COMPONENTS.suggestion("main, contrib;non-free") == "main contrib non-free"


@pytest.mark.parametrize("name", FORMS)
def test_every_form_accepts_its_own_example_and_what_it_suggests(name: str) -> None:
    form = FORMS[name]
    if form.example:
        form.check(form.example)
    if suggestion := form.suggestion("\u00fc/../ \n"):
        form.check(suggestion)


@pytest.mark.parametrize("name", FORMS)
def test_no_form_takes_long_over_a_long_text(name: str) -> None:
    for text in (
        "a" * 100_000,
        "a/" * 50_000,
        "a." * 50_000,
        "a, " * 30_000,
        "%{a}" * 25_000,
        "/.." * 30_000,
    ):
        try:
            FORMS[name].check(text)
        except BadValue as bad:
            assert len(bad.expected) < 200  # It does not repeat the text.


def test_a_secret_is_not_repeated() -> None:
    with pytest.raises(BadValue) as caught:
        forms.PASSWORD.check("hunter2\nroot")
    assert "hunter2" not in str(caught.value)


def test_a_form_is_a_note_of_an_annotation() -> None:
    even = Form("([0-9]*[02468])?", "an even number", "2")
    assert form_of(Annotated[str, even]) is even
    assert form_of(Annotated[str, even] | None) is even
    assert form_of(tuple[Annotated[str, even], ...]) is even
    assert form_of(str | None) is None
    assert convert("4", Annotated[str, even] | None) == "4"
    assert convert("4 8", tuple[Annotated[str, even], ...]) == ("4", "8")
    assert expected(Annotated[str, even]) == "an even number"
    assert expected(Annotated[str, free("for the test")]) == "text"
    with pytest.raises(BadValue, match="an even number"):
        convert("3", Annotated[str, even])
    with pytest.raises(BadValue, match="an even number"):
        convert("2 3", tuple[Annotated[str, even], ...])


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        (DebianPrePkgImgMod, {"hostname": "bad_name"}, "not a host name"),
        (DebianPrePkgImgMod, {"hostname": "-box"}, "not a host name"),
        (DebianPrePkgImgMod, {"locale": "../x"}, "not a locale"),
        (DebianPrePkgImgMod, {"timezone": "../../etc/shadow"}, "not a time zone"),
        (DebianPrePkgImgMod, {"serial_console": "tty S0"}, "not a serial line"),
        (
            DebianPrePkgImgMod,
            {"enable_services": ["ssh", "--root=/"]},
            "not the name of a systemd unit",
        ),
        (CustomScript, {"command": "true", "shell": "bash"}, "not an absolute path"),
        (CustomScript, {"command": "true", "environment": ["NAME"]}, "not NAME=VALUE"),
        (CustomScript, {"command": "true", "devices": ["../etc"]}, "not the name of a device"),
        (
            CustomScript,
            {"command": "true", "working_directory": "-"},
            "not the path of a directory",
        ),
        (CreateISO, {"volume_id": "a/b"}, "not a volume id"),
        (InstallISCSI, {"hostname": "a.b"}, "not a host name without a domain"),
        (InstallISCSI, {"serial_console": "tty0"}, "not a serial line, auto, or empty"),
        (InstallISCSI, {"kernel_args": "a='b"}, "not a list of words with balanced quotes"),
        (Relabel, {"zfs_path": "c1t0d0s0"}, "not an absolute path"),
    ],
)
def test_arguments_of_checkpoints_have_forms(
    factory: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadArguments, match=message):
        match_arguments(factory, [], arguments)


def test_what_stands_for_not_given_needs_no_form() -> None:
    assert match_arguments(InstallISCSI, [], {"serial_console": ""}).values == {
        "serial_console": ""
    }
    assert Password(text="").text == ""


def test_a_size_is_exact_and_one_that_a_file_can_have() -> None:
    assert size_bytes("9007199254740993b") == 9007199254740993
    assert size_bytes("1.1gb") == 1181116006
    for text in ("8eb", "9" * 400 + "b", "1e400b"):
        with pytest.raises(BadValue):
            size_bytes(text)


def test_a_form_is_enforced_on_what_is_read_not_on_what_is_constructed() -> None:
    """Objects that checkpoints make of themselves are theirs; texts of manifests come through XML."""
    assert Repository(suite="-x").suite == "-x"
    assert Format(type="ext4", mountpoint="x").mountpoint == "x"
