"""Rules of the project itself: linters, types, sizes, directions of imports, links of the documentation."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("cli", "dcd", "smf", "statemachine", "store")
LONGEST = 500
PLAIN = (*ROOMS, "docs", "README.md", "CONTRIBUTING.md")
"""Files and directories whose text is plain English."""
DIALECT = re.compile(
    r"\b(mends?|mended|by\s+chance|(?<!word )in\s+words|(is|are|was|were)\s+told|(stands?|stood)\s+still"
    r"|for\s+want\s+of|who\s+has|whoever|comes\s+to\s+be|cannot\s+be\s+had|nobody\s+needs"
    r"|is\s+said\s+to|(goes?|went)\s+on(?!\s+(a|an|the)\b))\b",
    re.IGNORECASE,
)
"""Phrases that make a reader stop, with plain ones in their place: fix, at random, reported, stops,
for lack of, a user who, exists, continues."""


def sources() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [ROOT / name for name in listed if (ROOT / name).exists()]


@pytest.mark.timeout(400)
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


def room_of(module: str) -> str:
    """The room of a module as docs/architecture.md names it: `dcd/engine`, `store/host`, `dcd/serve.py`."""
    top, _, rest = module.partition(".")
    inner = rest.partition(".")[0]
    if top not in ("dcd", "store") or not inner:
        return top
    if (ROOT / top / inner).is_dir():
        return f"{top}/{inner}"
    return top if top == "store" else f"{top}/{inner}.py"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """The modules of the project that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & modules) or {node.module}
    return found & modules


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """What each module imports."""
    modules = {module_of(path): path for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    return {module: imported_modules(path, set(modules)) for module, path in modules.items()}


def rooms_table() -> dict[str, set[str]]:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([\w/.]+?)/?` \| .* \| (.*) \|$", text, re.MULTILINE)
    return {room: set(re.findall(r"`([\w/.]+?)/?`", allowed)) for room, allowed in rows}


def test_rooms_import_what_the_architecture_says(imports):
    actual: dict[str, set[str]] = {}
    for module, imported in imports.items():
        strangers = {room_of(each) for each in imported} - {room_of(module)}
        actual.setdefault(room_of(module), set()).update(strangers)
    actual.pop("dcd")
    assert actual == rooms_table()


def test_rooms_import_only_rooms_that_the_table_names_before_them():
    seen: set[str] = set()
    for room, allowed in rooms_table().items():
        assert allowed <= seen, f"{room} imports {allowed - seen}, which come later"
        seen.add(room)


def test_no_files_import_each_other(imports):
    TopologicalSorter(imports).prepare()


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


def test_pages_name_only_files_and_functions_of_the_code():
    """As `path/file.py`, and as `name` (`path/file.py`)."""
    wrong = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        text = page.read_text()
        named = set(re.findall(rf"`((?:{'|'.join(ROOMS)}|tests|tools)/[\w/.]+\.\w+)`", text))
        wrong += [f"{page.name}: {path}" for path in named if not (ROOT / path).exists()]
        for name, path in re.findall(r"`(\w+)`\s+(?:\(|in\s+)`([\w/]+\.py)`", text):
            if not (ROOT / path).exists() or name not in defined(ROOT / path):
                wrong.append(f"{page.name}: {name} in {path}")
    assert wrong == []


@cache
def defined(path: Path) -> set[str]:
    """The functions, methods, classes and constants of a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update(target.id for target in targets if isinstance(target, ast.Name))
    return found


def test_text_is_plain_english():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PLAIN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    files = [ROOT / name for name in listed if name.endswith((".py", ".md"))]
    assert len(files) > 100
    found = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for path in files
        if path.exists()
        for text in [path.read_text()]
        for match in DIALECT.finditer(text)
    ]
    assert found == []
