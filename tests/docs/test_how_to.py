"""The pages' command blocks are run exactly as they are written, and their snippets are valid.

Each page's blocks run in order in one shell, on a machine that has what the page is about: a build that
failed, one that is paused, one that runs. A block that cannot run here is in CANNOT, with the reason; a
command of which the page says that it fails is in FAILS, with its exit status. The tutorial has a test of
its own, which builds an image.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.docs.conftest import ROOT, Block, Machine, blocks

HOW_TO = sorted((ROOT / "docs" / "how-to").glob("*.md"))
PAGES = [ROOT / "README.md", *HOW_TO]

SERVICE = "asks systemd about the service, which is not installed here; tests/packaging installs it"
ILLUMOS = "is for an illumos host, and there is none"

CANNOT = {
    ("README.md", "make image"): "the tutorial's test runs it",
    (
        "README.md",
        "dcd serve",
    ): "runs until it is stopped; the machine's daemon was started like that",
    (
        "docs/how-to/build-a-virtual-machine-image.md",
        "dcctl submit",
    ): "builds and boots for minutes; tests/system/test_vm_image.py does",
    ("docs/how-to/install-through-iscsi.md", "dcctl submit"): "builds and installs for minutes; "
    "tests/system/test_vm_iscsi.py does",
    ("docs/how-to/install-on-a-build-server.md", "make deb"): "installs the package; "
    "tests/packaging/test_debian_package.py does",
    ("docs/how-to/install-on-a-build-server.md", "adduser"): "changes this host's users",
    ("docs/how-to/install-on-a-build-server.md", "systemctl reload"): SERVICE,
    ("docs/how-to/install-on-a-build-server.md", "systemctl edit"): SERVICE,
    ("docs/how-to/install-on-a-build-server.md", "journalctl"): SERVICE,
    ("docs/how-to/operate.md", "systemctl status"): SERVICE,
    (
        "docs/how-to/operate.md",
        "apt-get install",
    ): "replaces the package; tests/faults/test_upgrade.py does",
    (
        "docs/how-to/watch-builds-in-a-browser.md",
        "dcctl web",
    ): "runs until Ctrl-C; tests/cli/web/test_web_gateway.py starts and opens it",
    ("docs/how-to/watch-builds-in-a-browser.md", "ssh -L"): "needs another machine",
    ("docs/how-to/illumos.md", "make p5m"): ILLUMOS,
    ("docs/how-to/illumos.md", "pkg install"): ILLUMOS,
    ("docs/how-to/illumos.md", "python3.11 -m venv"): ILLUMOS,
    ("docs/how-to/illumos.md", "zfs create"): ILLUMOS,
    ("docs/how-to/illumos.md", "svccfg"): ILLUMOS,
}
"""Why blocks are not run, by page and the beginning of the block."""

FAILS = {
    "dcctl submit image.xml --pause-before second --fresh --follow": 4,
}
"""Exit statuses of lines that end with another than 0, as their page says."""

MANIFEST = """<dc>
  <parameter name="hostname" default="box"/>
  <distro name="page">
    <execution>
      <checkpoint name="first" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
        <args>echo ${hostname} > {PKG_IMAGE_PATH}/name</args>
      </checkpoint>
      <checkpoint name="second" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
        <args>COMMAND</args>
      </checkpoint>
    </execution>
  </distro>
</dc>
"""

BUILDS = """
dcctl submit completed.xml --follow >/dev/null 2>&1
cancelled=$(dcctl submit completed.xml --pause-before second --fresh)
dcctl follow $cancelled >/dev/null 2>&1 || [ $? = 4 ]
dcctl cancel $cancelled >/dev/null
dcctl submit completed.xml --pause-before second --fresh --follow >/dev/null 2>&1 || [ $? = 4 ]
dcctl submit running.xml >/dev/null
dcctl submit failed.xml --follow >/dev/null 2>&1 || [ $? = 3 ]
"""
"""A completed, a cancelled, a paused, a running and a failed build."""

OF_BUILDS = re.compile(r"dcctl (list|gc|df|backup|reproduce)\b")
"""The commands of pages that need builds; the others name them by what these print."""


@pytest.fixture
def directory(machine: Machine, tmp_path: Path) -> Path:
    """A directory with the files that pages name."""
    tmp_path.chmod(0o755)
    for name, command in {"completed": "true", "running": "sleep 600", "failed": "false"}.items():
        (tmp_path / f"{name}.xml").write_text(MANIFEST.replace("COMMAND", command))
    for name in ("image.xml", "my.xml", "new.xml"):
        (tmp_path / name).write_text(MANIFEST.replace("COMMAND", "echo done"))
    shutil.copy(ROOT / "tests/data/precud/slim_sample.xml", tmp_path / "slim_cd_x86.xml")
    shutil.copy(ROOT / "tests/data/precud/DC-manifest.defval.xml", tmp_path)
    return tmp_path


def reason_not_to_run(block: Block) -> str | None:
    """Why a block cannot be run here, if so."""
    found = [
        why
        for (page, begin), why in CANNOT.items()
        if page == block.page and block.text.startswith(begin)
    ]
    return found[0] if found else None  # fmt: skip


def to_run(page: Path) -> list[Block]:
    """The command blocks of a page that can be run here."""
    return [block for block in blocks(page, "sh") if reason_not_to_run(block) is None]


def run_blocks(machine: Machine, directory: Path, found: list[Block]) -> None:
    """Run blocks in one shell, and fail with the place and the output of the first that does."""
    script = ["set -e -o pipefail"]
    for block in found:
        script.append(f"echo '>>> {block}'")
        for line in block.text.splitlines():
            status = FAILS.get(line.split("  ")[0].strip())
            script.append(
                line if status is None else f"({line.split('  #')[0]}) || [ $? = {status} ]"
            )
    status, printed = machine.run("\n".join(script), directory)
    assert status == 0, (
        f"the block at {printed.rpartition('>>> ')[2]}\nall that was printed:\n{printed}"
    )


@pytest.mark.root
@pytest.mark.daemon
@pytest.mark.parametrize(
    "page", [page for page in PAGES if to_run(page)], ids=lambda page: page.stem
)
def test_the_command_blocks_of_a_page_work_as_they_are_written(
    machine: Machine, directory: Path, page: Path
) -> None:
    found = to_run(page)
    if any(OF_BUILDS.search(block.text) for block in found):
        machine.ask(f"set -e\n{BUILDS}", directory)
    try:
        run_blocks(machine, directory, found)
    finally:
        machine.run("dcctl rm --cancel $(dcctl list --all --ids)", directory)


def test_every_block_that_is_not_run_is_there() -> None:
    every = [block for page in PAGES for block in blocks(page, "sh")]
    for page, begin in CANNOT:
        assert any(block.page == page and block.text.startswith(begin) for block in every), begin
    for line in FAILS:
        assert any(line in block.text for block in every), line


def test_pages_name_only_commands_and_options_that_there_are() -> None:
    """Also in running text and in blocks that are not run."""
    from cli.main import build_parser

    parser = build_parser()
    commands = next(action for action in parser._actions if action.choices).choices
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        if page.name == "CHANGELOG.md":
            continue
        for found in re.finditer(
            r"(?:`|^)dcctl ([a-z][a-z-]*)((?: [^`\n#;|]*)?)", page.read_text(), re.M
        ):
            assert found[1] in commands, f"{page}: {found[0]}"
            options = {
                option for action in commands[found[1]]._actions for option in action.option_strings
            }
            before_dashes = found[2].partition(" -- ")[0]
            used = set(re.findall(r"(?<= )--[a-z-]+", re.sub(r"\$\(.*", "", before_dashes)))
            assert used <= options, f"{page}: {found[0]}"  # fmt: skip


SNIPPETS = [
    (block, example)
    for page, example in (
        ("how-to/write-a-manifest.md", "debian-live.xml"),
        ("how-to/build-a-virtual-machine-image.md", "debian-vm.xml"),
        ("how-to/disks.md", "debian-vm.xml"),
        ("how-to/install-through-iscsi.md", "debian-vm-iscsi.xml"),
        ("how-to/secure-boot.md", "debian-secure-boot.xml"),
        ("how-to/netboot.md", "debian-netboot.xml"),
        ("reference/manifest.md", "debian-live.xml"),
    )
    for block in blocks(ROOT / "docs" / page, "xml")
]


@pytest.mark.root
@pytest.mark.daemon
@pytest.mark.parametrize(("block", "example"), SNIPPETS, ids=lambda part: str(part))
def test_the_snippets_of_a_page_are_valid(
    machine: Machine, tmp_path: Path, block: Block, example: str
) -> None:
    tmp_path.chmod(0o755)
    shutil.copytree(ROOT / "examples" / "files", tmp_path / "files")
    (tmp_path / "files" / "alice.pub").write_text("ssh-ed25519 AAAA alice\n")
    for name in ("hello.service", "setup.sh"):
        (tmp_path / "files" / name).write_text("# an example\n")
    for name in ("files/site", "files/overlay", "debs"):
        (tmp_path / name).mkdir()
    (tmp_path / "debs" / "my-app_1_all.deb").write_bytes(b"deb")
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "my-installer.iso").write_bytes(b"iso")
    text = with_snippet((ROOT / "examples" / example).read_text(), block.text)
    (tmp_path / "m.xml").write_text(text)
    status, printed = machine.run("dcctl validate m.xml", tmp_path)
    assert status == 0, printed


def with_snippet(manifest: str, snippet: str) -> str:
    """The manifest with the snippet in the place of the same element, or beside those of its kind."""
    if snippet.startswith("<distro"):
        return f"<dc>{snippet}</dc>"
    tag, name = re.match(r"<(\w+)(?:\s+name=\"([^\"]+)\")?", snippet).groups()
    same = (
        rf"<{tag}\s+name=\"{re.escape(name or '')}\""
        if name and tag != "configuration"
        else rf"<{tag}\b"
    )
    element = rf"{same}(?:[^>]*/>|.*?</{tag}>)"
    if tag == "configuration":
        # Of what the example says of users, network and files, only what the page says stays.
        return re.sub(rf"<{tag}\b.*</{tag}>|<{tag}\b[^>]*/>", "", manifest, flags=re.S).replace(
            "</execution>", f"</execution>\n{snippet}"
        )
    if tag == "checkpoint" and not re.search(same, manifest):
        return manifest.replace("</execution>", f"{snippet}</execution>")
    if tag == "placement":
        return manifest.replace("</distro>", f"{snippet}</distro>")
    changed, count = re.subn(element, lambda _: snippet, manifest, count=1, flags=re.S)
    assert count == 1, shlex.quote(snippet)
    return changed
