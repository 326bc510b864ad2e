"""A declaration of inputs is held against what a program really does: a planted input is caught."""

from pathlib import Path

import pytest

from statemachine.plan import Inputs
from store.layers.delta import whole
from store.layers.walk import NOTHING, describe
from tests.store.layers.tracing import calls, trace, undeclared

INPUTS = Inputs(
    whole=("image/hooks/**", "out/**"),
    unread=("image/doc/**",),
    texts=("image/hooks/*",),
    programs=("image/bin/*",),
)

HOOK = """
for each in image/hooks/*; do test -r "$each"; done
for name in fsck missing; do
    if [ -e "image/bin/$name" ]; then read -r line < "image/bin/$name"; fi
done
"""

PLANTED = {
    "a file that is declared unread": (
        "read -r line < image/doc/readme",
        "image/doc/readme is read",
    ),
    "a name that no text has": ('n=na; [ -e "image/bin/${n}no" ]', "image/bin/nano is looked for"),
    "all names of a directory": ("echo image/etc/*", "image/etc is enumerated"),
    "a name where nothing is read": ("[ -e image/doc/fsck ]", "image/doc/fsck is looked for"),
}


def found(tree: Path, script: str, log: Path) -> list[str]:
    for name, content in {
        "hooks/fs": HOOK,
        "bin/fsck": "checks\n",
        "doc/readme": "text\n",
        "etc/conf": "settings\n",
    }.items():
        (tree / "image" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "image" / name).write_text(content)
    trace(["sh", "-c", script], tree, log)
    content = whole(describe(tree, stacked=False, newest=None, known=NOTHING))
    made = calls(log.read_text().splitlines(), tree)
    return list(undeclared(made, INPUTS, content, lambda path: (tree / path).read_bytes()))


def test_a_program_that_does_what_is_declared_passes(tmp_path: Path) -> None:
    assert found(tmp_path / "tree", HOOK, tmp_path / "log") == []


@pytest.mark.parametrize("planted", PLANTED)
def test_control_a_planted_undeclared_input_is_caught(tmp_path: Path, planted: str) -> None:
    script, complaint = PLANTED[planted]
    assert found(tmp_path / "tree", f"{HOOK}\n{script}\ntrue", tmp_path / "log") == [complaint]
