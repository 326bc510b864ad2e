r"""The forms of texts of a manifest that become part of another language.

Text of a manifest becomes a word of a command line, a line of fstab or passwd, a value of apt.conf, a title
in GRUB's menu. The form of each such text allows only text that the other language can represent and does
not misread. Attributes and arguments declare their form, so that the check of a manifest, the grammar for
editors and the reference agree; the writer of each language checks again. Text without a pattern is `free`,
with the reason. Pure.

Source: the manual page or RFC that each form names.
"""

import re
from base64 import b64decode
from ipaddress import ip_address, ip_interface

from dcd.manifest.values import BadValue, Form, free, shell_words

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
_HOST = rf"({_LABEL}(\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]+\])"
_PORT = r"0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_AUTHORITY = rf"{_HOST}(:{_PORT})?"
_SERVER = rf"([A-Za-z0-9._~%!$&+,;=:\-]*@)?([A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.%]+\])(:{_PORT})?"
"""The server of a repository: names in private networks need not be valid host names."""
_URL_REST = r"[A-Za-z0-9._~:/?#@!&*+,=%\[\]\-]*"
_ENTRY = r"([^/.\t\n\r]|\.[^/.\t\n\r]|\.\.[^/\t\n\r])[^/\t\n\r]*"
"""A part of a path other than `.` and `..`."""
_KEY_TYPE = (
    r"ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)"
    r"|sk-ssh-ed25519@openssh\.com|sk-ecdsa-sha2-nistp256@openssh\.com"
)
_AREA = r"\{[A-Z_]+\}"
_DISTRIBUTION = r"[A-Za-z0-9]([A-Za-z0-9 _.+\-]*[A-Za-z0-9_+\-])?"

LONGEST_PATH = 4095
"""Linux: PATH_MAX without the NUL."""
LONGEST_KERNEL_ARGUMENTS = 2047
"""Linux: COMMAND_LINE_SIZE of x86 and arm64 without the NUL; the kernel cuts off the rest."""


def _stays_below(path: str) -> str:
    """Without the references, which `dcd.checkpoints.areas` checks after their replacement."""
    plain = re.sub(r"%\{[^{}]*\}", "", path)
    return "a path without .." if ".." in plain.split("/") else ""


def _arguments_of_kernel(text: str) -> str:
    try:
        words = shell_words(text)
    except BadValue as bad:
        return bad.expected
    if any(mark in word for word in words for mark in "\t\n\r"):
        return "arguments without a tab or an end of line inside their quotes"
    if len(" ".join(words).encode()) > LONGEST_KERNEL_ARGUMENTS:
        return f"at most {LONGEST_KERNEL_ARGUMENTS} bytes of arguments, the limit of Linux"
    return ""


def _addresses(text: str) -> str:
    try:
        for word in text.split():
            ip_address(word)
    except ValueError:
        return "addresses, separated by blanks"
    return ""


def _addresses_with_prefix(text: str) -> str:
    try:
        for word in text.split():
            ip_interface(word)
    except ValueError:
        return "addresses, each with its prefix length"
    without = next((word for word in text.split() if "/" not in word), None)
    return f"an address with its prefix length (such as {without}/24)" if without else ""


_ANSWER_TYPES = (
    *("select", "multiselect", "string", "boolean", "note", "text", "password", "title", "error"),
    *("seen", "entropy"),
)


_SHOWN = 40
"""How much of a wrong word a message repeats."""


def _answers(text: str) -> str:
    whole = re.sub(r"\\\r?\n[ \t]*", " ", text)
    for line in whole.splitlines():
        words = [word[:_SHOWN] for word in line.split(None, 3)]
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 3:
            return f"package, question, type and answer on each line: {words[0]!r} is not"
        if words[2] not in _ANSWER_TYPES:
            return f"an answer: its type {words[2]!r} is none of {', '.join(_ANSWER_TYPES)}"
        if words[2] == "boolean" and words[3:] not in (["true"], ["false"], []):
            return f"an answer: {words[1]} is true or false"
    return ""


def _whole_key(line: str) -> str:
    """Source: RFC 4253, 6.6: a key begins with its type, and all of it are strings with their lengths."""
    found = re.search(rf"(?:^| )({_KEY_TYPE}) +(\S+)", line)
    if found is None:
        return ""
    try:
        data = b64decode(found[found.lastindex or 0], validate=True)
    except ValueError:
        return "a whole public key: its text is not base64"
    parts = []
    while data:
        length = int.from_bytes(data[:4], "big")
        if len(data) < 4 + length:
            return "a whole public key: its end is missing"
        parts.append(data[4 : 4 + length])
        data = data[4 + length :]
    if len(parts) < 2 or parts[0] != found[1].encode():
        return f"a public key: its text is not that of {found[1]}"
    return ""


def fitting_name(name: str) -> str:
    """The name, changed as little as needed to name a distribution."""
    if len(name) <= 32 and re.fullmatch(_DISTRIBUTION, name):
        return name
    return re.sub(r"[^A-Za-z0-9_.+\-]+", "-", name).strip("-. ")[:32] or "my-image"


def _ids(text: str) -> str:
    numbers = [int(part) for part in text.split(":") if part.isdecimal()]
    return "a user or group id of at most 4294967294" if max(numbers, default=0) > 2**32 - 2 else ""


def _not_of_lvm(text: str) -> str:
    return (
        "a name that begins with neither snapshot nor pvmove"
        if text.startswith(("snapshot", "pvmove"))
        else ""
    )


# Names

CHECKPOINT_NAME = Form(
    r"[A-Za-z0-9][A-Za-z0-9._\-]*",
    "a name of letters, digits, dots, underscores and hyphens",
    "ba-init",
    100,
)
"""Also the name of files and directories of a build."""
IDENTIFIER = Form(
    r"[A-Za-z_][A-Za-z0-9_]*", "a name of letters, digits and underscores", "hostname"
)
PROFILE = Form(
    r"[A-Za-z0-9_][A-Za-z0-9_.\-]*",
    "a name of letters, digits and _ . -, and none of and, or, not",
    "dev",
    64,
    also=lambda text: "a name other than and, or, not" if text in ("and", "or", "not") else "",
)
WORD = Form(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]*", "a word of letters, digits and _ . + -", "virtio")
LINE = Form(r"[^\t\n\r]*\S[^\t\n\r]*", "a line of text", "Debian live")
"""Text for people, with any characters; each writer encodes it."""
TITLE = Form(r"[^\-\t\n\r\s][^\t\n\r]*", "a line of text that begins with no hyphen", "Debian live")
LINES = Form(r"[\s\S]*", "a line of text", "(safe mode)", 1000)
"""The same over several lines, which count as one."""
ENTRY = Form(LINE.pattern, "a package, file or directory", "openssh-server", LONGEST_PATH)
"""The kind of transfer decides which of these it is, and checks it."""
FILE_NAME = Form(
    r"[A-Za-z0-9_][A-Za-z0-9_.+\- ]*",
    "a file's name of letters, digits, blanks and _ . + -",
    "disk.img",
    200,
)
"""Tools get it in one word with other text: `FILE@@OFFSET` of mtools, `FILE?offset=` of debugfs."""
MARKER = Form(r"\.?[A-Za-z0-9_\-]+", "the name of a file in the root", ".livecd", 100)
DISTRIBUTION = Form(
    _DISTRIBUTION,
    "a name of letters, digits, and blanks or _ . + - between them",
    "my-image",
    32,
    fitting=fitting_name,
)
"""A volume id, and a file's name."""
VOLUME_ID = Form(
    r"[A-Za-z0-9_.+\-]([A-Za-z0-9_.+\- ]*[A-Za-z0-9_.+\-])?",
    "a volume id of letters, digits, _ . + - and blanks between them",
    "MY-IMAGE",
    32,
)
"""ISO 9660, 8.4.7. It allows only capitals, digits and _; systems accept the other characters."""
NUMBER = Form(r"[0-9]{1,9}", "a number", "1", 9)
MODE = Form(r"[0-7]{3,4}", "a file mode in octal digits", "0644", 4)

ARGUMENT = free("the checkpoint declares the form of its argument")
COMMAND = free("a command of the submitter; the values of references are quoted", 100_000)
"""It is one argument of the shell: the limit of Linux is 128 KiB, MAX_ARG_STRLEN."""
SCRIPT = free("a script of the submitter, written to a file unchanged", 1 << 20)
PARAMETER_VALUE = free("it is checked where it is used")
DESCRIPTION = free("for people; it is in no file but the manifest", 1000)
VALIDATION_COMMAND = Form(r"[^\-\s][^\t\n\r]*", "a command", "/usr/bin/xmllint", 4095)
VALIDATION_ARGUMENTS = free(
    "words of a command that host_code or a list of commands allows; no shell reads them", 1000
)

# Paths

CLIENT_PATH = Form(r"[^\t\n\r]*[^/\s]", "the path of a file", "files/motd", LONGEST_PATH)
"""The client reads the file with its own rights, and no command gets the path."""
CLIENT_DIRECTORY = Form(r"[^\t\n\r]*[^\s]", "the path of a directory", "files/site", LONGEST_PATH)
"""The same of a directory."""
IMAGE_PATH = Form(rf"(/+{_ENTRY})+", "an absolute path without ..", "/etc/motd", LONGEST_PATH)
IMAGE_DIRECTORY = Form(
    rf"/|(/+{_ENTRY})+/?", "an absolute path without ..", "/srv/site", LONGEST_PATH
)
HOST_PATH = Form(rf"/|(/+{_ENTRY})+/?", "an absolute path without ..", "/srv/data", LONGEST_PATH)
AREA_PATH = Form(
    rf"{_AREA}(/[^\t\n\r]*)?",
    "a path that begins with an area of the workspace",
    "{PKG_IMAGE_PATH}/opt",
    LONGEST_PATH,
    also=_stays_below,
)
DELIVERED = Form(
    r"(\{MEDIA_DIR\}/)?([^/{}\t\n\r]+/)*[^./{}\t\n\r][^/{}\t\n\r]*",
    "the path of a file beneath MEDIA_DIR",
    "{MEDIA_DIR}/root.tar",
    LONGEST_PATH,
    also=_stays_below,
)
"""The file's name becomes that of an artifact."""
WORKING_DIRECTORY = Form(
    r"[^\-\t\n\r][^\t\n\r]*", "the path of a directory", "{TMP_DIR}", LONGEST_PATH
)
MOUNTPOINT = Form(rf"/|(/{_ENTRY})+", "the absolute path of a directory", "/srv", 1000)
ACCOUNT_PATH = Form(r"/|(/[^/:\t\n\r]+)+/?", "an absolute path without a colon", "/bin/bash", 1000)
"""A home directory or shell: passwd(5) separates its fields by colons."""
EXCLUDED = Form(
    r"[^\-\t\n\r][^\t\n\r]*",
    "a path of the image, with shell patterns",
    "var/cache/apt/*",
    LONGEST_PATH,
    also=_stays_below,
)
"""mksquashfs(1), -wildcards -e: all arguments after it are patterns."""

# Hosts and addresses

PROXY = Form(
    rf"(http|https|socks5h)://{_AUTHORITY}/?",
    "the URL of a proxy, without a login",
    "http://proxy.example.com:3128",
)
"""For apt.conf(5), where quotes, `;` and braces have a meaning. A login would be stored with the manifest."""
APT_URI = Form(
    rf"(http|https|ftp|mirror|(mirror|tor)\+(http|https))://{_SERVER}(/{_URL_REST})?"
    rf"|(file|copy|(mirror|tor)\+file):/{_URL_REST}",
    "the URI of a repository",
    "http://mirror.example.org/debian",
    2000,
)
"""A word of sources.list(5), which needs no quotes there. Transfers refuse a login and name the
alternative."""
IPS_PACKAGE = Form(
    r"(pkg:/{1,2})?[A-Za-z0-9][A-Za-z0-9_./+\-]*(@[0-9A-Z.,:\-]+)?",
    "the name of an IPS package",
    "install-image/solaris-auto-install",
    500,
)
"""pkg(7), FMRI."""
IPS_ORIGIN = Form(
    rf"(http|https)://{_SERVER}(/{_URL_REST})?|file:/{_URL_REST}|/[A-Za-z0-9._~:/@+,=%\- ]*",
    "a URI or an absolute path",
    "http://pkg.example.com/release",
    2000,
)
URL = Form(rf"(http|https)://{_AUTHORITY}(/{_URL_REST})?", "a URL", "https://example.com/", 2000)
HOST_NAME = Form(rf"{_LABEL}(\.{_LABEL})*", "a host name", "debian-live", 253)
"""hostname(7), hosts(5)."""
SHORT_HOST_NAME = Form(_LABEL, "a host name without a domain", "box", 63)
HOST_OR_ADDRESS = Form(rf"{_HOST}|[0-9A-Fa-f:.]+", "a host name or an address", "192.0.2.1", 253)
INTERFACE = Form(
    r"[A-Za-z0-9*?._:\-]+( [A-Za-z0-9*?._:\-]+)*",
    "the name of an interface, or a pattern of names",
    "en*",
)
"""systemd.network(5), Name=."""
ADDRESSES = Form(
    r"[0-9A-Fa-f:.]+( +[0-9A-Fa-f:.]+)*",
    "addresses, separated by blanks",
    "192.0.2.1",
    1000,
    also=_addresses,
)
ADDRESSES_WITH_PREFIX = Form(
    r"[0-9A-Fa-f:./]+( +[0-9A-Fa-f:./]+)*",
    "addresses, each with its prefix length",
    "192.0.2.7/24",
    1000,
    also=_addresses_with_prefix,
)
DOMAINS = Form(
    rf"~?{_LABEL}(\.{_LABEL})*\.?( +~?{_LABEL}(\.{_LABEL})*\.?)*",
    "domains, separated by blanks",
    "example.com",
    1000,
)
ISCSI_NAME = Form(
    r"iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9.\-]+(:[a-z0-9.:\-]+)?|eui\.[0-9A-Fa-f]{16}|naa\.[0-9A-Fa-f]{16,32}",
    "an iSCSI name",
    "iqn.2026-01.com.example:disk",
    223,
)
"""RFC 7143, 4.2.7."""
LOGICAL_UNIT = Form(
    r"[0-9]{1,5}|[0-9A-Fa-f]{4}(-[0-9A-Fa-f]{4}){3}", "the number of a logical unit", "0", 19
)

# Packages and their repositories

ARCHITECTURE = Form(r"[a-z0-9][a-z0-9\-]*", "an architecture of Debian", "amd64", 40)
SUITE = Form(
    r"[A-Za-z0-9][A-Za-z0-9_.+~\-]*(/[A-Za-z0-9][A-Za-z0-9_.+~\-]*)*/?|\./",
    "a suite or codename",
    "bookworm",
)
"""A word of sources.list(5), and a bare argument of mmdebstrap(1): it does not begin with `-`."""
COMPONENTS = Form(
    r"[A-Za-z0-9][A-Za-z0-9_.+/\-]*( +[A-Za-z0-9][A-Za-z0-9_.+/\-]*)*",
    "components, separated by blanks",
    "main contrib",
    fitting=lambda text: " ".join(re.findall(r"[A-Za-z0-9][A-Za-z0-9_.+/\-]*", text)),
)
PINNED = Form(
    r"[A-Za-z0-9*?\[][A-Za-z0-9.+:*?\[\]\-]*( +[A-Za-z0-9*?\[][A-Za-z0-9.+:*?\[\]\-]*)*",
    "names of packages, separated by blanks",
    "nginx*",
    1000,
)
PIN = Form(
    r"release +[a-z]=[^\s,]+( *, *[a-z]=[^\s,]+)*|version +\S+|origin +\S+",
    "a pin: release, version or origin",
    "release n=bookworm-backports",
    500,
)
"""apt_preferences(5)."""
DPKG_OPTION = Form(
    r"path-(exclude|include)=/[^\t\n\r]*|force-(unsafe-io|conf(old|new|def|miss|ask)|overwrite|depends|all)"
    r"|no-force-[a-z\-]+|refuse-[a-z\-]+|no-debsig|no-triggers",
    "an option of dpkg, such as path-exclude=PATTERN or force-confold",
    "path-exclude=/usr/share/man/*",
    1000,
)
"""dpkg(1). Options that name commands or directories of dpkg are not among them."""
ANSWERS = Form(
    r"[\s\S]*\S[\s\S]*",
    "answers for debconf, each on a line",
    "tzdata tzdata/Areas select Europe",
    100_000,
    also=_answers,
)
"""debconf-set-selections(1)."""
PUBLISHER = Form(r"[A-Za-z0-9][A-Za-z0-9._\-]*", "the name of a publisher", "example.com")
FACET = Form(r"[A-Za-z0-9][^\s=]*", "the name of a facet, variant or property", "facet.locale.*")
"""pkg(1) gets it as NAME=VALUE."""
VARIANT_VALUE = Form(r"\S+", "a value without blanks", "i386")

# The installed system

ACCOUNT = Form(r"[a-z_][a-z0-9_\-]{0,31}[$]?", "an account name", "live", 33)
"""useradd(8)."""
GROUPS = Form(
    r"[A-Za-z_][A-Za-z0-9_.\-]*[$]?([ ,]+[A-Za-z_][A-Za-z0-9_.\-]*[$]?)*",
    "names of groups, separated by blanks or commas",
    "sudo",
    1000,
)
OWNER = Form(
    r"[A-Za-z0-9_.\-]+(:[A-Za-z0-9_.\-]+)?",
    "an owner and, after a colon, a group",
    "root:root",
    65,
    also=_ids,
)
CHAP_NAME = Form(r"[^,\t\n\r]*[^,\s][^,\t\n\r]*", "a CHAP name without commas", "disk-user")
CHAP_SECRET = Form(r"[^,\t\n\r]*[^,\s][^,\t\n\r]*", "a CHAP secret", "", secret=True)
FULL_NAME = Form(r"[^:\t\n\r]*", "a person's name, without a colon", "Ada Lovelace")
"""passwd(5) separates its fields by colons."""
PASSWORD = Form(r"[^\t\n\r]*", "a password on one line", "", 511, secret=True)
"""crypt(3): CRYPT_MAX_PASSPHRASE_SIZE."""
PASSWORD_HASH = Form(
    r"[$][A-Za-z0-9,=\-]+[$][A-Za-z0-9./=,$*+\-]+", "a crypt(5) hash", "", 384, secret=True
)
SSH_KEY = Form(
    rf"([^#\s][^\t\n\r]* )?({_KEY_TYPE}) +[A-Za-z0-9+/]+=*( [^\t\n\r]*)?",
    "a public key as in authorized_keys",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@example.com",
    16384,
    also=_whole_key,
)
"""sshd(8), AUTHORIZED_KEYS FILE FORMAT."""
LOCALE = Form(
    r"(C|POSIX|[a-z]{2,3}(_[A-Z]{2})?)(\.[A-Za-z0-9\-]+)?(@[a-z]+(\.[A-Za-z0-9\-]+)?)?",
    "a locale",
    "en_GB.UTF-8",
    60,
)
"""locale(7); /usr/share/i18n/SUPPORTED of Debian's package locales."""
TIME_ZONE = Form(r"[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+)*", "a time zone", "Europe/Berlin", 60)
UNIT = Form(r"[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\\-]*", "the name of a systemd unit", "ssh.service")
SERIAL_LINE = Form(
    r"auto|(ttyS|ttyAMA|hvc)[0-9]{1,3}(,[0-9]{2,7}([noe][5-8]?r?)?)?",
    "a serial line, or auto",
    "ttyS0",
    30,
)
SERIAL_CONSOLE = Form(
    r"(auto|tty(S|AMA)[0-9](,[0-9]{2,7}([noe][5-8]?r?)?)?)?",
    "a serial line, auto, or empty",
    "ttyS0,115200",
    30,
)
"""bootparam(7), console=."""
KERNEL_ARGUMENTS = Form(
    r"[\s\S]*",
    "arguments of the kernel",
    "quiet",
    2 * LONGEST_KERNEL_ARGUMENTS,
    also=_arguments_of_kernel,
)
"""Words quoted as for a shell."""
KERNEL_VERSION = Form(r"[A-Za-z0-9][A-Za-z0-9.+~_\-]*", "the version of a kernel", "6.1.0-40-amd64")

# Disks

MOUNT_OPTIONS = Form(
    r"[A-Za-z0-9_.\-]+(=[A-Za-z0-9_.:/@%+~\-]*)?(,[A-Za-z0-9_.\-]+(=[A-Za-z0-9_.:/@%+~\-]*)?)*",
    "mount options, separated by commas",
    "noatime,errors=remount-ro",
    1000,
)
"""fstab(5), mount(8)."""
SUBVOLUME = Form(
    r"[A-Za-z0-9_@][A-Za-z0-9_@.+\-]*", "the name of a subvolume, without a slash", "@home", 200
)
"""btrfs-subvolume(8); it is also a mount option, and part of a path of GRUB."""
LVM_NAME = Form(r"[A-Za-z0-9]+", "a name of letters and digits", "vg0", 60, also=_not_of_lvm)
"""lvm(8), "VALID NAMES"; LVM's own have underscores, and names in /dev/mapper double hyphens."""
MAPPED = Form(
    r"[A-Za-z0-9_][A-Za-z0-9_.\-]*",
    "a name of letters, digits, underscores, dots and hyphens",
    "cryptroot",
    60,
    also=lambda text: "a name other than control" if text == "control" else "",
)
"""A name in /dev/mapper, crypttab(5)."""
DISK_ID = Form(
    r"derived|random|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "derived, random or a UUID",
    "derived",
    36,
)
VOLUME_UUID = Form(
    r"[0-9a-fA-F]{4}-[0-9a-fA-F]{4}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "a UUID (for vfat, XXXX-XXXX)",
    "6a3c9f0e-3f0c-4c2e-9a55-0d5f0a1b2c3d",
    36,
)
GPT_TYPE = Form(
    r"[a-z_]+|\{[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}",
    "a type of partition, or a GUID in braces",
    "linux",
    38,
)
ZFS_NAME = Form(r"[A-Za-z0-9][A-Za-z0-9_.:/ \-]*", "a name in ZFS", "rpool")
"""zpool(8), zfs(8)."""
DATASET = Form(r"[A-Za-z0-9/][A-Za-z0-9_.:/ \-]*", "the name of a dataset", "export/home")
ZFS_MOUNTPOINT = Form(
    rf"/|(/{_ENTRY})+|legacy|none", "an absolute path, legacy or none", "/export", 1000
)
PROPERTY_VALUE = Form(LINE.pattern, "the value of a property", "on", 1000)
DEVICE_NAME = Form(
    r"[*]|[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*",
    "the name of a device in /dev, or * for all",
    "kvm",
)
CAPABILITY = Form(r"[A-Z_]+", "a capability of capabilities(7) without CAP_", "SYS_ADMIN", 40)
LABEL = Form(
    r"[A-Za-z0-9][A-Za-z0-9._/\-]*=[^\n\r]*", "a label KEY=VALUE", "org.example.tier=web", 4096
)
"""A label of a container image, a text in JSON."""
IMAGE_TAG = Form(
    rf"({_AUTHORITY}/)?[a-z0-9]+([._\-]+[a-z0-9]+)*(/[a-z0-9]+([._\-]+[a-z0-9]+)*)*:[A-Za-z0-9_][A-Za-z0-9_.\-]*",
    "the name of a container image with its tag",
    "example/app:1.0",
)
PORT = Form(r"[1-9][0-9]{0,4}(/(tcp|udp|sctp))?", "a port with its protocol", "80/tcp", 12)
VARIABLE = Form(r"[A-Za-z_][A-Za-z0-9_]*=[\s\S]*", "NAME=VALUE", "LANG=C.UTF-8", 65536)
"""environ(7); any value reaches the program unchanged."""
