"""The IPS package: its manifest is read as pkg(7) and pkgmogrify(1) describe the format, and applied to the
files that its script stages. Whether pkg(7) itself accepts it, only an illumos host can tell."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "packaging" / "illumos" / "dcd.p5m"

KEYS = {
    "set": {"name", "value"},
    "license": {"license"},
    "group": {"groupname"},
    "user": {"username", "group"},
    "dir": {"path", "owner", "group", "mode"},
    "link": {"path", "target"},
    "depend": {"type", "fmri"},
}
"""By action, the attributes that it must have."""

OPERATIONS = {"set": 2, "default": 2, "add": 2, "drop": 0}
"""By operation of a transform, the number of its operands."""


@dataclass(frozen=True, slots=True)
class Action:
    """An action of a package's manifest."""

    kind: str
    payload: str
    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Transform:
    """A transform of pkgmogrify: for actions of `kinds` ((): all) whose path matches, an operation."""

    kinds: tuple[str, ...]
    path: re.Pattern[str]
    operation: str
    operands: tuple[str, ...]


def lines() -> list[str]:
    """The logical lines, macros filled in."""
    text = MANIFEST.read_text().replace("\\\n", " ")
    for name in ("VERSION", "ARCH", "PYV"):
        text = text.replace(f"$({name})", f"<{name.lower()}>")
    assert "$(" not in text
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def parse_action(line: str) -> Action:
    kind, *words = shlex.split(line)
    payload = words.pop(0) if words and "=" not in words[0] else ""
    pairs = [word.split("=", 1) for word in words]
    assert all(len(pair) == 2 for pair in pairs), line
    return Action(kind, payload, dict(pairs))


def parse_transform(line: str) -> Transform:
    found = re.fullmatch(r"<transform ((?:\w+ )*)path=(\S+) -> (\w+)(.*)>", line)
    if found is None:
        found = re.fullmatch(r"<transform ((?:\w+ )*)()-> (\w+)(.*)>", line)
    assert found, line
    kinds, path, operation, operands = found.groups()
    return Transform(tuple(kinds.split()), re.compile(path), operation, tuple(operands.split()))


def actions() -> list[Action]:
    return [parse_action(line) for line in lines() if not line.startswith("<")]


def transforms() -> list[Transform]:
    return [parse_transform(line) for line in lines() if line.startswith("<")]


def apply(attributes: dict[str, str], kind: str) -> dict[str, str] | None:
    """The attributes after all transforms; None when the action is dropped. A pattern matches from the
    beginning of the path (pkgmogrify(1))."""
    attributes = dict(attributes)
    for each in transforms():
        if each.kinds and kind not in each.kinds:
            continue
        if not each.path.match(attributes["path"]):
            continue
        match each.operation:
            case "drop":
                return None
            case "default":
                attributes.setdefault(*each.operands)
            case _:
                attributes[each.operands[0]] = each.operands[1]
    return attributes


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The staged files, without the Python libraries."""
    directory = tmp_path_factory.mktemp("p5m")
    script = ROOT / "packaging" / "build-p5m.sh"
    environment = {**os.environ, "STAGE_ONLY": "1"}
    subprocess.run([script, Path(sys.executable).parent, directory], check=True, env=environment)
    return directory / "proto"


def test_each_action_has_the_attributes_that_its_kind_needs() -> None:
    for action in actions():
        assert KEYS[action.kind] <= set(action.attributes), action
        path = action.attributes.get("path", "")
        assert not path.startswith("/") and ".." not in path, action


def test_transforms_have_known_operations_with_their_operands() -> None:
    for each in transforms():
        assert len(each.operands) == OPERATIONS[each.operation], each


def test_users_and_groups_are_those_of_the_other_platforms() -> None:
    sysusers = (ROOT / "systemd" / "sysusers.conf").read_text()
    groups = {each.attributes["groupname"] for each in actions() if each.kind == "group"}
    (user,) = (each.attributes for each in actions() if each.kind == "user")
    assert groups == set(re.findall(r"^g (\S+)", sysusers, re.MULTILINE))
    assert f"u {user['username']} -:{user['group']} " in sysusers
    assert user["group"] in groups


def test_it_depends_on_packages_by_their_names_on_illumos() -> None:
    required = {each.attributes["fmri"] for each in actions() if each.kind == "depend"}
    assert required == {"pkg:/runtime/python-<pyv>", "pkg:/package/pkg"}


def test_its_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    script = (ROOT / "packaging" / "build-p5m.sh").read_text()
    assert '["project"]["version"]' in script
    assert re.fullmatch(r"\d+(\.\d+)*", project["version"]), "an IPS version has numbers and dots"


def test_compiled_modules_are_valid_at_any_time_of_their_sources(tmp_path: Path) -> None:
    (line,) = re.findall(
        r"^.* -m (compileall .*)$", (ROOT / "packaging/build-p5m.sh").read_text(), re.MULTILINE
    )
    site = tmp_path / "opt/site"
    site.mkdir(parents=True)
    (site / "one.py").write_text("def where(): pass\n")
    words = [
        {"$proto": str(tmp_path), "$site": str(site)}.get(word, word) for word in shlex.split(line)
    ]
    subprocess.run([sys.executable, "-m", *words], check=True)
    (compiled,) = site.rglob("*.pyc")
    content = compiled.read_bytes()
    assert content[4:8] == b"\1\0\0\0"  # PEP 552: by hash, not checked
    assert b"/opt/site/one.py" in content
    assert str(tmp_path).encode() not in content


def test_links_lead_to_staged_programs(staged: Path) -> None:
    links = [each.attributes for each in actions() if each.kind == "link"]
    assert {Path(each["path"]).name for each in links} == {"dcctl", "dcd", "distro_const"}
    for each in links:
        target = Path(os.path.normpath(staged / Path(each["path"]).parent / each["target"]))
        assert os.access(target, os.X_OK), each


def test_every_staged_file_gets_owner_group_mode_and_its_services(staged: Path) -> None:
    found = {}
    for path in staged.rglob("*"):
        if path.is_file() and not path.is_symlink():
            name = str(path.relative_to(staged))
            after = apply({"path": name}, "file")
            assert after is not None, name
            assert {"owner", "group", "mode"} <= set(after), name
            assert (after["mode"] == "0755") == os.access(path, os.X_OK), name
            found[name] = after
    manifest = found["lib/svc/manifest/application/dcd.xml"]
    assert manifest["restart_fmri"] == "svc:/system/manifest-import:default"
    for kind in ("auth", "prof", "exec"):
        rights = found[f"etc/security/{kind}_attr.d/dcd"]
        assert rights["restart_fmri"] == "svc:/system/rbac:default"
        assert rights["group"] == "sys"
    assert found["opt/dcd/share/man/man1/dcctl.1"]["facet.doc.man"] == "true"


def test_directories_of_the_system_are_left_to_it(staged: Path) -> None:
    own = {
        str(path.relative_to(staged))
        for path in staged.rglob("*")
        if path.is_dir() and apply({"path": str(path.relative_to(staged))}, "dir") is not None
    }
    assert all(name == "opt/dcd" or name.startswith("opt/dcd/") for name in own), own


def test_the_services_manifest_names_what_the_package_installs(staged: Path) -> None:
    text = (staged / "lib/svc/manifest/application/dcd.xml").read_text()
    for path in ("/opt/dcd/bin/dcd", "/opt/dcd/lib/svc-dcd", "/opt/dcd/share/man"):
        assert f'"{path}"' in text
        assert (staged / path.lstrip("/")).exists()
    assert "/opt/dcd/bin/dcd:" in (staged / "etc/security/exec_attr.d/dcd").read_text()
