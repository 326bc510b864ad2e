"""`dcctl doc`: the DOC of a build, at its present layer and at earlier ones."""

from pathlib import Path
from typing import Any

import pytest

from dcd.manifest.doc import DataObjectCache

pytestmark = pytest.mark.root

MODULE = '''
from dcd.checkpoints.interface import Checkpoint
from dcd.manifest.doc import DataObjectDict


class Hand(Checkpoint):
    """Hand on a number."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.number = number

    def execute(self, context):
        handed = DataObjectDict(self.name, {"number": self.number, "word": "<&>"})
        context.doc.persistent.insert_children(handed)
'''

MANIFEST = """<dc><distro name="handed"><distro_spec><img_params><media_im>
<boot_mods title="Live" timeout="5"/></media_im></img_params></distro_spec><execution>
<checkpoint name="one" mod_path="handing" checkpoint_class="Hand"><args>1</args></checkpoint>
<checkpoint name="two" mod_path="handing" checkpoint_class="Hand"><args>2</args></checkpoint>
<checkpoint name="three" mod_path="handing" checkpoint_class="Hand"><args>3</args></checkpoint>
</execution></distro></dc>"""


@pytest.fixture
def paused(cold_daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    """A daemon, and a build that is paused before its third checkpoint."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/handing.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    cold_daemon.settings["checkpoint_modules"] = ["handing"]
    cold_daemon.start()
    (tmp_path / "handed.xml").write_text(MANIFEST)
    build = cold_daemon.submit(tmp_path / "handed.xml", "--pause-before", "three")
    cold_daemon.wait(build, "paused")
    return cold_daemon, build


def test_the_whole_doc_is_printed_as_it_is_after_the_last_completed_checkpoint(
    paused: tuple[Any, str],
) -> None:
    daemon, build = paused
    doc = DataObjectCache.from_text(daemon.ctl("doc", build))
    assert doc.find_path("//distro.name") == ["handed"]
    assert [found.name for found in doc.persistent.children] == ["one", "two"]
    assert daemon.json("doc", build)["at"] == "two"


def test_at_a_checkpoint_it_is_as_that_one_left_it(paused: tuple[Any, str]) -> None:
    daemon, build = paused
    answer = daemon.json("doc", build, "--at", "one")
    assert answer["at"] == "one"
    doc = DataObjectCache.from_text(answer["matches"][0]["xml"])
    assert [found.name for found in doc.persistent.children] == ["one"]


def test_a_path_prints_values_and_objects(paused: tuple[Any, str]) -> None:
    daemon, build = paused
    assert daemon.ctl("doc", build, "//boot_mods.timeout") == "5\n"
    assert daemon.ctl("doc", build, "//two[@DataObjectDict].word") == "<&>\n"
    assert daemon.ctl("doc", build, "/persistent/[@DataObjectDict].number") == "1\n2\n"
    assert daemon.ctl("doc", build, "//boot_mods") == '<boot_mods title="Live" timeout="5"/>\n'
    assert daemon.json("doc", build, "//boot_mods")["matches"] == [
        {
            "path": "/volatile/dc/handed/distro_spec/img_params/media_im/boot_mods",
            "xml": '<boot_mods title="Live" timeout="5"/>\n',
            "value": None,
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--at", "three"], 6, "three has not completed"),
        (["--at", "four"], 7, "has no checkpoint four"),
        (["//nothing"], 7, "nothing in the DOC matches '//nothing'"),
        (["nonsense"], 2, "'nonsense' is not a path string"),
        (["//distro.colour"], 2, "has no attribute 'colour'"),
    ],
)
def test_what_is_not_there_is_said(
    paused: tuple[Any, str], arguments: list[str], status: int, message: str
) -> None:
    daemon, build = paused
    outcome = daemon.run("doc", build, *arguments)
    assert outcome.returncode == status
    assert message in outcome.stderr


def test_before_the_first_checkpoint_there_is_the_manifest(paused: tuple[Any, str]) -> None:
    daemon, _ = paused
    manifest = daemon.state_dir.parent / "handed.xml"
    manifest.write_text(MANIFEST.replace('"handed"', '"other"'))
    build = daemon.submit(manifest, "--pause-before", "one", "--fresh")
    daemon.wait(build, "paused")
    answer = daemon.json("doc", build, "/persistent")
    assert answer["at"] is None
    assert answer["matches"][0]["xml"] == "<persistent/>\n"
