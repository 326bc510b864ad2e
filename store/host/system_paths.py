"""The parts of the host that less trusted processes see: software and settings, by name.

Workers, planners and confined programs each have a root directory with listed contents. The lists that
they share are here. Standard library only, since the processes that enter such a root import it first.
"""

import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

SOFTWARE = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr")
"""The directories of the system's software."""

SETTINGS = (
    *("alternatives", "ca-certificates", "gai.conf", "group", "host.conf", "hosts", "ld.so.cache"),
    *("localtime", "nsswitch.conf", "os-release", "passwd", "pki/tls", "protocols", "resolv.conf"),
    *("services", "ssl/certs", "ssl/openssl.cnf", "xml"),
)
"""Of /etc, what programs need to find libraries, users, hosts and certificates."""

TOOL_SETTINGS = (
    # Settings that tools read. Found with strace(1) and in the documentation of Debian's image tools.
    *("apt", "dpkg", "mke2fs.conf", "mtools.conf", "mdadm.conf", "xattr.conf", "default/useradd"),
    *("login.defs", "magic", "magic.mime", "mime.types", "debconf.conf", "perl", "python3"),
    *("python3.11", "python3.12", "python3.13", "fonts", "java", "fuse.conf", "libaudit.conf"),
    *("qemu", "qemu-ifdown", "qemu-ifup", "tgt", "vbox", "zfs", "lvm/lvm.conf", "gnutls"),
    # Files that shells and scripts expect.
    *("adduser.conf", "bash.bashrc", "debian_version", "environment", "ethertypes", "inputrc"),
    *("locale.alias", "locale.conf", "lsb-release", "networks", "profile", "profile.d", "rpc"),
    *("shells", "skel", "subgid", "subuid", "terminfo", "timezone", "wgetrc", "gitconfig"),
    *("ld.so.conf", "ld.so.conf.d", "ld.so.preload", "debuginfod", "pki", "crypto-policies"),
)
"""Of /etc, what the host's tools read in addition."""

ALL_SETTINGS = tuple(Path("/etc", name) for name in (*SETTINGS, *TOOL_SETTINGS))
"""The paths of both, of which a system has some."""

LOGINS = (Path("/etc/apt/auth.conf"), Path("/etc/apt/auth.conf.d"))
"""Of these settings, the logins of the host's apt."""

SECRETS = (Path("/etc/dcd/secrets"),)
"""The directories of secrets that manifests may refer to."""

OWN_CODE = ("dcd", "statemachine", "store")


def settings() -> Iterator[Path]:
    """The existing paths of `ALL_SETTINGS`."""
    yield from filter(Path.exists, ALL_SETTINGS)


def code_places(modules: Iterable[str] = ()) -> Iterator[Path]:
    """The places of this interpreter and of everything that it can import. `modules` are names of modules
    or patterns (`acme.checkpoints.*`) that may be outside the search path."""
    yield Path(sys.prefix)
    yield Path(sys.base_prefix)
    yield Path(sys.executable)
    for entry in map(Path, filter(None, sys.path)):
        # A daemon that is started in / or /root does not have all of it as its code.
        if len(entry.absolute().parts) > 2:
            yield entry.absolute()
    # An editable install need not be in the search path: its own finder knows the places of its packages.
    for package in {module.replace("/", ".").split(".")[0] for module in (*OWN_CODE, *modules)}:
        if (spec := find_spec(package)) is not None:
            yield from map(Path, spec.submodule_search_locations or filter(None, [spec.origin]))
