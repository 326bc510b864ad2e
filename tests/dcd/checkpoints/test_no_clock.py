"""Checkpoints use no clock and nothing random, so that the same build has the same bytes on another day.

Read in the sources of all checkpoints and of what they import of `dcd.platform`: every use of a forbidden
name is an exception with a reason, or a fault.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

FORBIDDEN = (
    *("time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.ctime", "time.asctime"),
    *("time.strftime", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today"),
    *("datetime.datetime.today", "uuid.uuid1", "uuid.uuid4", "secrets", "random", "os.urandom"),
    *("os.getrandom", "tempfile", "os.getpid", "socket.gethostname", "os.uname", "platform.node"),
    *("getpass", "os.getlogin", "email.utils.localtime", "email.utils.make_msgid", "hash", "id"),
)
"""Names; a module stands for all that is in it."""

EXCEPTIONS = {
    ("dcd/platform/hypervisor/qemu.py", "tempfile.mkstemp"): "the name is removed at once",
    ("dcd/checkpoints/vm/create_disk.py", "uuid.uuid4"): (
        'only for <disk_image id="random">, which `variances` reports'
    ),
    ("dcd/checkpoints/vm/install_iscsi.py", "secrets.token_hex"): (
        "the name of a target that ends with the attempt"
    ),
    ("dcd/platform/iscsi/interface.py", "secrets.token_hex"): (
        "the user of a login that ends with the attempt"
    ),
    ("dcd/platform/iscsi/interface.py", "secrets.token_urlsafe"): (
        "the password of a login that ends with the attempt"
    ),
    ("dcd/platform/apt_release.py", "tempfile.TemporaryDirectory"): (
        "apt's files of a question about a repository"
    ),
    ("dcd/platform/apt_root.py", "tempfile.mkdtemp"): (
        "apt's settings beside the image; no file in the image has the name"
    ),
    ("dcd/platform/asking.py", "tempfile.TemporaryDirectory"): "the place of a confined question",
    ("dcd/platform/asking.py", "tempfile.gettempdir"): "the places that killed questions have left",
    ("dcd/platform/asking.py", "time.time"): "the age of such a place",
    (
        "dcd/platform/copying.py",
        "tempfile.TemporaryFile",
    ): "a probe of the file system; it has no name",
    ("dcd/platform/hypervisor/probe.py", "tempfile.NamedTemporaryFile"): "a guest that proves KVM",
    ("dcd/platform/hypervisor/virtualbox.py", "os.getpid"): "the name of a guest that ends here",
    ("dcd/platform/publishing/s3.py", "datetime.datetime.now"): (
        "the time of a signed request; no file has it"
    ),
    ("dcd/platform/sandbox.py", "os.uname"): "the architecture, for the filter of system calls",
    ("dcd/platform/hypervisor/virtualbox.py", "tempfile.TemporaryDirectory"): (
        "the socket of a guest's console"
    ),
}


def module_file(module: str) -> Path | None:
    place = ROOT / module.replace(".", "/")
    return next(
        (file for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists()), None
    )


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What a file imports: the name in the file, and the whole name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                first = each.name.partition(".")[0]
                yield (each.asname, each.name) if each.asname else (first, first)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                yield each.asname or each.name, f"{node.module}.{each.name}"


def checked_files() -> set[Path]:
    """All checkpoints, and the files of `dcd.platform` that they import, however indirectly."""
    found = set((ROOT / "dcd/checkpoints").rglob("*.py"))
    pending = list(found)
    while pending:
        for _, whole in imports(ast.parse(pending.pop().read_text())):
            for module in (whole, whole.rpartition(".")[0]):
                file = module_file(module) if module.startswith("dcd.platform") else None
                if file is not None and file not in found:
                    found.add(file)
                    pending.append(file)
    return found


def used(source: str) -> set[str]:
    """The forbidden names that a source uses, whole."""
    tree = ast.parse(source)
    known = dict(imports(tree))
    found = set()
    for node in ast.walk(tree):
        parts: list[str] = []
        part: ast.AST = node
        while isinstance(part, ast.Attribute):
            parts.insert(0, part.attr)
            part = part.value
        if not isinstance(part, ast.Name) or not isinstance(getattr(part, "ctx", None), ast.Load):
            continue
        if part.id not in known and (parts or not isinstance(node, ast.Name)):
            continue
        whole = ".".join((known.get(part.id, part.id), *parts))
        if part.id not in known and whole not in ("hash", "id"):
            continue
        if any(whole == name or whole.startswith(f"{name}.") for name in FORBIDDEN):
            if whole.partition(".")[0] in ("secrets", "random", "tempfile") and "." not in whole:
                continue  # The module alone; what is used of it counts.
            found.add(whole)
    return found


def test_checkpoints_use_no_clock_and_nothing_random() -> None:
    found = {
        (str(file.relative_to(ROOT)), name)
        for file in checked_files()
        for name in used(file.read_text())
    }
    assert found - EXCEPTIONS.keys() == set(), "a result would differ each time"
    assert EXCEPTIONS.keys() - found == set(), "an exception is no longer needed"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import time\nx = time.time()", "time.time"),
        ("from time import time as now\nx = now()", "time.time"),
        ("from datetime import datetime, UTC\nx = datetime.now(UTC)", "datetime.datetime.now"),
        ("import datetime\nx = datetime.datetime.now()", "datetime.datetime.now"),
        ("import uuid\nf = field(default_factory=uuid.uuid4)", "uuid.uuid4"),
        ("from uuid import uuid4\nf = field(default_factory=uuid4)", "uuid.uuid4"),
        ("import secrets\nx = secrets.token_hex(8)", "secrets.token_hex"),
        ("from random import Random\nx = Random()", "random.Random"),
        ("import os\nx = os.urandom(4)", "os.urandom"),
        ("import tempfile\nx = tempfile.mkdtemp()", "tempfile.mkdtemp"),
        ("x = hash('a')", "hash"),
    ],
)
def test_each_way_to_a_clock_or_to_chance_is_found(source: str, name: str) -> None:
    assert used(source) == {name}


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.sleep(1)\nx = time.monotonic()",
        "import uuid\nx = uuid.uuid5(uuid.NAMESPACE_OID, 'a')",
        "def f(image):\n    return image.id",
        "from datetime import UTC, datetime\nx = datetime.fromtimestamp(0, UTC)",
    ],
)
def test_what_is_the_same_each_time_is_allowed(source: str) -> None:
    assert used(source) == set()
