"""A server that keeps buckets for tests of S3: Swift, the object store of OpenStack, with its filter s3api.

It is installed from PyPI into an environment of its own in the user's cache: its libraries are none of
dcd's. Its four servers keep one copy of each object, below a directory.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.dcd.checkpoints.publishing import serving

REQUIREMENTS = ("swift==2.38.3",)
LOGIN = ("test:id", "key")
"""The id and the secret of its access key."""

_STORES = ("account", "container", "object")
_COMMON = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {place}
devices = {place}/devices
mount_check = false
"""
_HASH = """[swift-hash]
swift_hash_path_prefix = tests
swift_hash_path_suffix = tests
[storage-policy:0]
name = single
default = yes
"""
_PROXY = f"""[pipeline:main]
pipeline = catch_errors cache s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_{LOGIN[0].replace(":", "_")} = {LOGIN[1]} .admin
[filter:slo]
use = egg:swift#slo
"""


def installed() -> Path:
    """The directory with its programs, installed there once, also when several tests begin at a time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dcd-tests"
    place = cache / f"{REQUIREMENTS[0]}-{sys.version_info.minor}"
    programs = place / "bin"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (programs / "swift-proxy-server").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
            pip = [programs / "python", "-m", "pip", "install", "--quiet"]
            options = ["--disable-pip-version-check", "setuptools", *REQUIREMENTS]
            subprocess.run([*pip, *options], check=True)
    return programs


@contextmanager
def object_server(place: Path, user: str) -> Iterator[int]:
    """The server, with its state in a directory; yields its port. `user` runs it."""
    programs = installed()
    (place / "devices/one").mkdir(parents=True)
    (place / "swift.conf").write_text(_HASH)

    def command(name: str, own: str, port: int) -> list[Path]:
        file = place / f"{name}.conf"
        file.write_text(_COMMON.format(port=port, user=user, place=place) + own)
        return [programs / f"swift-{name}-server", file]

    with ExitStack() as started:
        for name in _STORES:
            own = f"[pipeline:main]\npipeline = {name}-server\n[app:{name}-server]\nuse = egg:swift#{name}\n"
            port = started.enter_context(serving(partial(command, name, own)))
            builder = [programs / "swift-ring-builder", place / f"{name}.builder"]
            device = f"r1z1-127.0.0.1:{port}/one"
            for step in (["create", "1", "1", "0"], ["add", device, "1"], ["rebalance"]):
                subprocess.run([*builder, *step], check=True, stdout=subprocess.DEVNULL)
        yield started.enter_context(serving(partial(command, "proxy", _PROXY)))
