"""Rules of the project itself: linters, types, sizes, directions of imports, links of the documentation."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("cli", "dcd", "smf", "statemachine", "store")
LONGEST = 500

MAY_IMPORT = {
    "statemachine": {"statemachine"},
    "store": {"store", "statemachine"},
    "cli": {"cli"},
    "dcd": {"dcd", "store", "statemachine", "smf"},
    "smf": {"smf", "dcd"},
}
"""Which rooms a room may import. Imports point down."""


def sources() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [ROOT / name for name in listed if (ROOT / name).exists()]


@pytest.mark.parametrize(
    "command", [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)], ids=" ".join
)
def test_linter_is_content(command):
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_file_is_too_long():
    long = {
        str(path.relative_to(ROOT)): count
        for path in sources()
        if (count := len(path.read_text().splitlines())) > LONGEST
    }
    assert long == {}


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found & set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down(room):
    wrong = {
        str(path.relative_to(ROOT)): strangers
        for path in (ROOT / room).rglob("*.py")
        if (strangers := imported_rooms(path) - MAY_IMPORT[room])
    }
    assert wrong == {}


def room_of(module: str) -> str:
    """The room of a module as docs/architecture.md names it: `dcd/engine`, `store`."""
    return "/".join(module.split(".")[: 2 if module.startswith("dcd.") else 1])


def inner_imports(path: Path) -> set[str]:
    """The rooms that a module imports."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "dcd":
            modules += [f"dcd.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.append(node.module)
    return {room_of(module) for module in modules if module.split(".")[0] in ROOMS}


def test_rooms_import_what_the_architecture_says():
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([\w/]+?)(?:/|\.py)?` \| .* \| (.*) \|$", text, re.MULTILINE)
    table = {room: set(re.findall(r"`([\w/]+)`", imports)) for room, imports in rows}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            own = room_of(module.removesuffix(".__init__"))
            strangers = inner_imports(path) - {own, "dcd"}
            if own != "dcd":
                assert strangers <= table[own], f"{path} imports {strangers - table[own]}"


def test_only_one_module_knows_transitions():
    knowing = [
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"^(from|import) transitions", path.read_text(), re.MULTILINE)
    ]
    assert knowing == ["statemachine/machine.py"]


def test_links_of_the_documentation_lead_somewhere():
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert dead == []
