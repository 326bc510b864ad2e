"""A planner with a state directory beside it, and a checkpoint that runs code in it."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcd.configuration import Configuration
from dcd.planner.client import Planner
from dcd.planner.rules import Rules
from dcd.planner.tasks import PLAN, Captured, Manifest
from statemachine.events import Actor

ADA = Actor(uid=70001, gid=1, pid=1, user="ada")

PROBE = """
from dcd.checkpoints.interface import Checkpoint

class Probe(Checkpoint):
    VERSION = 1

    def __init__(self, name: str, code: str):
        super().__init__(name)
        self.code = bytes.fromhex(code).decode()

    def external_state(self, doc):
        found = {"secret": "none"}
        exec(self.code, found)
        return {"said": str(found["said"])}

    def execute(self, context):
        pass
"""

TRYING = """
import ctypes, errno, os, socket, tempfile
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)

def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

try:
    {code}
    said = "done"
except OSError as error:
    said = errno.errorcode[error.errno]
"""


SHOW = """
from pathlib import Path
from dcd.platform.sight import require_shown
require_shown([Path({path!r})])
said = Path({path!r}).read_text()
"""


class Bench:
    """A planner with a state directory beside it, as of a daemon: this process stands for the daemon."""

    def __init__(self, directory: Path) -> None:
        self.state = directory
        self.blobs = directory / "blobs"
        self.blobs.mkdir()
        (directory / "events.db").write_text("all events")
        (directory / "builds").mkdir()
        (directory / "builds/one").write_text("somebody's")
        self.settings = Configuration(
            state_dir=directory, checkpoint_modules=("probe_of_planners",)
        )
        self.planner = Planner(lambda: self.settings)

    def ask(self, code: str, **other: object) -> str:
        """Run code in a planner and return the text of its variable `said`."""
        text = (
            '<dc><distro name="x"><execution><checkpoint name="p" mod_path="probe_of_planners" '
            f'checkpoint_class="Probe"><kwargs><arg name="code">{code.encode().hex()}</arg></kwargs>'
            "</checkpoint></execution></distro></dc>"
        )
        rules = Rules(modules=self.settings.checkpoint_modules)
        asked = Manifest(text, "/home/m.xml", rules, host_code=True, **other)  # type: ignore[arg-type]
        planned = asyncio.run(self.planner.ask(PLAN, asked, ADA))
        (external,) = (i for i in planned.plan.checkpoints[0].ingredients if i.kind == "external")
        return external.digest

    def captured(self, content: str) -> Captured:
        """A captured file, readable by its owner and others, in the directory of the blobs."""
        digest = hashlib.sha256(content.encode()).hexdigest()
        path = self.blobs / digest
        path.write_text(content)
        path.chmod(0o444)
        return Captured(digest, 0o644, path)

    def inside(self) -> list[int]:
        """The processes in the namespace of the planners."""
        assert self.planner._forker is not None
        starter = self.planner._forker.process.process.pid
        namespace = Path(f"/proc/{starter}/ns/pid_for_children").readlink()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "ns/pid").readlink() == namespace:
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "probe_of_planners.py").write_text(PROBE)
    monkeypatch.syspath_prepend(modules)
    monkeypatch.setenv("DCD_SECRET_LIVE", "sesame")
    (tmp_path / "state").mkdir(mode=0o700)
    made = Bench(tmp_path / "state")
    with made.planner:
        yield made
