"""The command line itself: usage, suggestions, what starting costs, and what is generated from it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.commands import NAMES
from cli.completion import candidates
from cli.exit_codes import AT_REST, PROBLEMS, ExitCode
from cli.generate import completions, man, reference
from cli.main import build_parser, command_first
from cli.manual import ENVIRONMENT, EXAMPLES, EXIT_STATUS
from dcd.api.problems import STATUSES
from dcd.main import EXIT_CODES
from statemachine import errors

REPOSITORY = Path(__file__).parents[2]
REFERENCE = REPOSITORY / "docs" / "reference"

OF_SESSIONS = {"PROMPT_COMMAND", "XDG_RUNTIME_DIR"}
"""Variables that dcctl reads and that are nobody's to set for it."""

HEAVY = {
    "alembic", "dcd", "lxml", "msgspec", "rich", "sqlalchemy", "starlette", "statemachine", "store",
    "structlog", "transitions", "uvicorn", "argparse_manpage",
    "asyncio", "concurrent", "dataclasses", "difflib", "inspect", "logging", "multiprocessing",
    "subprocess", "tempfile", "unittest", "xml", "importlib.metadata",
}  # fmt: skip


def imported_by(*arguments: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    program = (
        "import sys\n"
        "from cli.main import main\n"
        "main(sys.argv[1:])\n"
        "sys.stdout = sys.__stdout__\n"
        "print('MODULES', *sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n{program}",
         *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.partition("MODULES ")[2].split())


@pytest.mark.parametrize("command", [["list"], ["status", "k2"], ["submit", __file__]])
def test_a_short_command_imports_nothing_slow(command: list[str]) -> None:
    modules = imported_by("--socket", "/nonexistent/s", *command)
    assert "http.client" in modules
    assert not HEAVY & modules


def test_the_client_is_the_standard_library_and_rich() -> None:
    allowed = sys.stdlib_module_names | {"cli", "rich"}
    for file in (REPOSITORY / "cli").rglob("*.py"):
        if file.name == "generate.py":
            continue  # runs at build time
        imports = re.findall(r"^\s*(?:from|import) (\w+)", file.read_text(), re.MULTILINE)
        # What the extra `web` has, which only the page's gateway needs.
        extra = {"h11", "starlette", "uvicorn"} if file.parent.name == "web" else set()
        assert set(imports) <= allowed | extra, file


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sumbit"], "did you mean 'submit'?"),
        (["list", "--state", "faild"], "did you mean 'failed'?"),
        (["submit"], "MANIFEST"),
        (["submit", "m.xml", "--set", "hostname"], "'hostname' is not NAME=VALUE"),
        (["submit", "m.xml", "--set", "=box"], "'=box' is not NAME=VALUE"),
        (["list", "--limit", "0"], "0 is less than 1"),
        (["list", "--limit", "2", "--all"], "not allowed with"),
        (["events", "k2", "--follow", "--verify"], "not allowed with"),
        (["submit", "m.xml", "--fres"], "unrecognized arguments: --fres"),
    ],
)
def test_wrong_usage_exits_2_and_says_what(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args(arguments)
    assert stop.value.code == ExitCode.USAGE
    assert said in capsys.readouterr().err


def test_without_a_command_the_commands_are_listed(dcctl) -> None:
    outcome = dcctl()
    assert (outcome.code, outcome.out) == (ExitCode.USAGE, "")
    for name in NAMES:
        assert re.search(rf"^ +{name}\s+\w", outcome.err, re.MULTILINE), name


@pytest.mark.parametrize(
    "arguments", [["--json", "list"], ["list", "--json"], ["--json", "list", "--json"]]
)
def test_json_may_stand_before_and_after_the_command(arguments: list[str]) -> None:
    assert build_parser().parse_args(arguments).json
    assert not build_parser().parse_args(["list"]).json


def test_a_word_like_no_other_gets_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["xyzzy"])
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "socket_path"),
    [
        (["--socket", "/a", "list"], "/a"),
        (["list", "--socket", "/b"], "/b"),
        (["--socket", "/a", "list", "--socket", "/b"], "/b"),
        (["list"], "/from/environment"),
    ],
)
def test_the_socket_may_stand_before_and_after_the_command(
    arguments: list[str], socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCD_SOCKET", "/from/environment")
    assert build_parser().parse_args(arguments).socket == socket_path


@pytest.mark.parametrize(
    ("platform", "socket_path"),
    [("linux", "/run/dcd/dcd.sock"), ("sunos5", "/var/run/dcd/dcd.sock")],
)
def test_the_socket_is_by_default_where_the_service_has_it(
    platform: str, socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DCD_SOCKET", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    assert build_parser().parse_args(["list"]).socket == socket_path


def test_every_command_takes_json() -> None:
    samples = {
        "submit": ["m"],
        "validate": ["m"],
        "plan": ["m"],
        "list": [],
        "top": [],
        "init": ["live"],
        "notify": [],
        "web": [],
        "df": [],
        "gc": [],
        "backup": ["f"],
        "config": [],
        "metrics": [],
        "completion": ["bash"],
        "doctor": [],
        "hosts": [],
        "version": [],
        "diff": ["k2", "k3"],
        "bisect": ["k2", "k3"],
    }
    parser = build_parser()
    for name in NAMES:
        arguments = [name, *samples.get(name, ["k2"]), "--json"]
        assert parser.parse_args(arguments).json


def test_the_committed_reference_is_current() -> None:
    for name, text in reference(build_parser()).items():
        assert (REFERENCE / name).read_text() == text, (
            "run: python -m cli.generate reference docs/reference"
        )


def test_completions_and_manual_know_every_command() -> None:
    assert set(completions(build_parser())) == {"dcctl.bash", "_dcctl", "dcctl.fish"}
    (page,) = man(build_parser()).values()
    offered = [word for word, _ in candidates(build_parser(), ["dcctl"], 1)]
    assert offered == list(NAMES)
    for command in NAMES:
        assert command.replace("-", "\\-") in page, command  # roff's hyphen


def test_exit_codes_are_those_of_the_documentation() -> None:
    table = re.findall(r"^\| (\d+) \|", (REFERENCE / "exit-codes.md").read_text(), re.MULTILINE)
    signals = {ExitCode.INTERRUPTED, ExitCode.BROKEN_PIPE}
    assert set(map(int, table)) == set(ExitCode) - signals
    assert set(EXIT_STATUS) == set(ExitCode)


def test_the_manual_page_has_what_manual_pages_have_and_its_examples_parse() -> None:
    page = man(build_parser())["dcctl.1"]
    for heading in ("EXAMPLES", "EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"):
        assert f"\n.SH {heading}\n" in page
    formatted = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww"], input=page, capture_output=True, text=True, check=True
    )
    assert formatted.stderr == ""
    assert "dcctl resume k2p7 --manifest image.xml --follow" in re.sub(
        "\x1b.*?m", "", formatted.stdout
    )
    for file in (REPOSITORY / "cli").rglob("*.py"):
        read = re.findall(r'environ\.get\("(\w+)"', file.read_text())
        assert {*read} <= {*ENVIRONMENT, *OF_SESSIONS}, file
    for _, line in EXAMPLES:
        for command in re.split("; |\\$\\(|\\)", line):
            arguments = command.split()[1:]
            if arguments:
                build_parser().parse_args([*arguments, *(["k2"] if arguments == ["rm"] else [])])


def test_bash_completes_the_ids_of_builds(daemon, tmp_path) -> None:
    builds = [{"id": "k2p7abcd"}, {"id": "k3xyzabc"}, {"id": "zzzzzzzz"}]
    daemon.answers["GET", "/v1/builds"] = 200, {"builds": builds, "next": None}
    (tmp_path / "dcctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m cli.main "$@"\n')
    (tmp_path / "dcctl").chmod(0o755)
    (tmp_path / "dcctl.bash").write_text(completions(build_parser())["dcctl.bash"])
    script = (
        f". {tmp_path}/dcctl.bash; COMP_WORDS=(dcctl status k); COMP_CWORD=2; "
        "COMP_LINE='dcctl status k'; COMP_POINT=14; "
        "$(complete -p dcctl | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "DCD_SOCKET": daemon.socket},
    )  # fmt: skip
    assert done.stdout.split() == ["k2p7abcd", "k3xyzabc"]


def test_each_problem_of_the_api_has_its_documented_exit_code() -> None:
    table = re.findall(
        r"^\| (`.*) \| \d{3} \| (\d+) \|", (REFERENCE / "api.md").read_text(), re.MULTILINE
    )
    documented = {
        name: int(code) for names, code in table for name in re.findall(r"`([\w-]+)`", names)
    }
    assert documented == PROBLEMS


def test_a_limit_that_is_no_number_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["list", "--limit", "ten"])
    assert ended.value.code == 2
    assert "argument --limit: 'ten' is not a whole number\n" in capsys.readouterr().err


def test_exit_codes_agree_with_the_daemons() -> None:
    for problem, code in PROBLEMS.items():
        if problem not in ("inputs-missing", "removed"):  # only answers have these
            assert EXIT_CODES.get(problem, 1) == code
    assert AT_REST["failed"] == EXIT_CODES["checkpoint-failed"]


def test_each_problem_has_a_status() -> None:
    pending = [errors.DcdError]
    while pending:
        error = pending.pop()
        assert error.problem in STATUSES
        pending += error.__subclasses__()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--json", "list"], ["list", "--json"]),
        (["--state", "failed", "list", "--all"], ["list", "--state", "failed", "--all"]),
        (["--socket", "list", "df"], ["df", "--socket", "list"]),
        (["--follow", "submit", "list"], ["submit", "--follow", "list"]),
        (["shell", "k2", "--", "list"], ["shell", "k2", "--", "list"]),
        (["--version", "--", "list"], ["--version", "--", "list"]),
        (["sumbit", "list"], ["sumbit", "list"]),
    ],
)
def test_options_may_be_before_the_command(arguments: list[str], expected: list[str]) -> None:
    assert command_first(arguments) == expected


def test_dcctl_alone_prints_its_help(dcctl) -> None:
    alone = dcctl()
    assert alone.code == 2
    assert "COMMAND" in alone.out + alone.err
    assert all(name in alone.out + alone.err for name in NAMES)


def test_the_manual_of_the_daemon_has_the_same_sections() -> None:
    given = (REPOSITORY / "packaging/dcd.8.include").read_text()
    headings = re.findall(r"^\[(.*)\]$", given, re.MULTILINE)
    assert headings == ["exit status", "environment", "files", "examples", "see also"]
    codes = set(re.findall(r"^\.B (\d+)$", given, re.MULTILINE))
    assert codes <= {str(code) for code in (0, 1, *EXIT_CODES.values())}
    assert "packaging/dcd.8.include" in (REPOSITORY / "packaging/build-deb.sh").read_text()
