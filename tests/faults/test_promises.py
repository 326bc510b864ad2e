"""docs/promises.md names, for each promise, tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "promises.md").read_text()
NAMED = re.findall(r"`(tests/\S+\.py)::(\w+)`", TEXT)


def names_in(path):
    """The names of the test functions and classes in a file."""
    tree = ast.parse(path.read_text())
    return {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
    } | {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_named_test_exists(path, name):
    assert name in names_in(ROOT / path)


def test_each_promise_names_a_test():
    promises, _, _ = TEXT.partition("## What it does not promise")
    for promise in promises.split("\n## ")[1:]:
        assert re.search(r"`tests/\S+\.py::\w+`", promise), promise


def test_each_fault_test_proves_a_promise_or_is_a_control():
    proving = {name for _, name in NAMED}
    for path in Path(__file__).parent.rglob("test_*.py"):
        if path == Path(__file__):
            continue
        found = {name for name in names_in(path) if name.startswith("test_")}
        assert {name for name in found - proving if "control" not in name} <= {
            "test_the_corpus_has_every_revision_and_every_event_in_its_present_version",
            "test_file_in_the_place_of_the_socket_is_refused_and_stays",
        }
