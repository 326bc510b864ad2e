"""Reading settings: options over environment over the file (or the SMF properties) over defaults.

All problems of a file are reported at once, each with its line and the correction; nothing is guessed,
and an unknown key is an error, because a misspelt limit would have no effect.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dcd.configuration.origin import Effective
from dcd.configuration.settings import SETTINGS, Configuration, Mode, Setting
from dcd.configuration.webhooks import BadWebhook, Webhook, webhook_from_words, webhooks
from statemachine.errors import UsageError

SMF_GROUP = "config"
"""The property group that holds the settings."""

TABLES = ("farm",)
"""Tables of the file: the names of the settings in them begin with the table's."""

SMF_OWN_PROPERTIES = frozenset(
    {"action_authorization", "modify_authorization", "read_authorization", "value_authorization"}
)
"""Properties of the group that belong to SMF, not to dcd (smf_security(7))."""


class InvalidConfiguration(UsageError):
    """The settings are invalid. `problems` lists all problems, one line each."""

    def __init__(self, where: str, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(
            f"{where}: {len(problems)} {'problem' if len(problems) == 1 else 'problems'}",
            "\n".join(problems),
            "docs/reference/configuration.md and dcd.toml(5) describe every setting",
        )


class _Unfit(Exception):
    """An invalid value of a setting; the text describes valid ones."""


def load(
    path: Path | None,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Effective:
    """The settings from the TOML file `path` (None: no file), `environment` and `overrides`.

    `overrides` are command-line options by setting; None means not given. Raises InvalidConfiguration
    for a source that cannot be read or parsed, and for invalid settings.
    """
    given: dict[str, tuple[Any, str]] = {}
    if path is not None:
        text = _read(path)
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InvalidConfiguration(str(path), [f"not TOML: {error}"]) from None
        given = {
            name: (value, f"{path}:{_line(text, key)}") for name, key, value in _flat(document)
        }
    return _effective(str(path), given, _from_toml, overrides or {}, environment)


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """The settings of a document by their names, each with its key there: `database` in `[farm]` is
    `farm_database`."""
    for name, value in document.items():
        if name in TABLES and isinstance(value, dict):
            yield from ((f"{name}_{key}", key, inner) for key, inner in value.items())
        else:
            yield name, name, value


def from_smf(
    properties: str,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Effective:
    """The settings from the output of `svcprop -p config FMRI`, else as `load`.

    Source: svcprop(1): a line `GROUP/NAME TYPE VALUE...`, special characters behind a backslash, an
    empty string as `""`.
    """
    given: dict[str, tuple[Any, str]] = {}
    for words in _svcprop_lines(properties):
        group, _, name = words[0].partition("/")
        if group != SMF_GROUP or len(words) < 2:
            raise InvalidConfiguration("svcprop", [f"unexpected line: {' '.join(words)[:200]}"])
        if name not in SMF_OWN_PROPERTIES:
            given[name] = (words[2:], f"property {words[0]}")
    return _effective("service properties", given, _from_smf, overrides or {}, environment)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InvalidConfiguration(str(path), [f"cannot be read: {reason}"]) from None


def _line(text: str, name: str) -> int:
    """The line of a top-level key. tomllib keeps no positions, and the file has no deep structure."""
    key = rf"""^\s*\[{{0,2}}\s*(["']?){re.escape(name)}\1\s*[=.\]]"""
    found = re.search(key, text, re.MULTILINE)
    return text.count("\n", 0, found.end()) + 1 if found else 1


def _effective(
    where: str,
    given: Mapping[str, tuple[Any, str]],
    convert: Callable[[Setting, Any], Any],
    overrides: Mapping[str, Any],
    environment: Mapping[str, str],
) -> Effective:
    """The settings `given` by a source, each with its origin, below the environment and the overrides."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems = []
    for name, (value, origin) in given.items():
        setting = SETTINGS.get(name)
        if setting is None:
            close = difflib.get_close_matches(name, SETTINGS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            problems.append(f"{origin}: unknown setting {name!r}{hint}")
            continue
        try:
            values[name], origins[name] = _checked(setting, convert(setting, value)), origin
        except _Unfit as error:
            problems.append(f"{origin}: {name} must be {error}, not {_shown(value)}")
        except BadWebhook as error:
            problems.append(f"{origin}: {name}: {error}")
    if problems:
        raise InvalidConfiguration(where, problems)
    for name, setting in SETTINGS.items():
        if setting.environment and (text := environment.get(setting.environment)):
            values[name], origins[name] = Path(text).absolute(), f"${setting.environment}"
        if (option := overrides.get(name)) is not None:
            values[name] = option.absolute() if isinstance(option, Path) else option
            origins[name] = "--" + name.replace("_", "-")
    return Effective(Configuration(**values), origins)


def _shown(value: Any) -> str:
    return repr(value[0] if isinstance(value, list) and len(value) == 1 else value)[:200]


def _from_toml(setting: Setting, value: Any) -> Any:
    kind = setting.kind
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (str, Path, Mode) and isinstance(value, str):
        return _from_text(kind, value)
    if kind in (tuple[str, ...], tuple[Path, ...]) and _all_text(value, list):
        return tuple(_from_text(kind.__args__[0], item) for item in value)
    if kind == tuple[Webhook, ...]:
        return webhooks(value)
    if kind == Mapping[str, Path] and _all_text(value, dict):
        return {prefix: _from_text(Path, item) for prefix, item in value.items()}
    raise _Unfit(expectation(setting))


def _all_text(value: Any, container: type[Any]) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return isinstance(value, container) and all(isinstance(item, str) for item in items)


def _from_smf(setting: Setting, words: list[str]) -> Any:
    kind = setting.kind
    if kind in (tuple[str, ...], tuple[Path, ...]):
        return tuple(_from_text(kind.__args__[0], word) for word in words)
    if kind == tuple[Webhook, ...]:
        return webhooks([webhook_from_words(word) for word in words])
    if kind == Mapping[str, Path]:
        pairs = [word.rpartition("=") for word in words]
        if not all(separator for _, separator, _ in pairs):
            raise _Unfit("values of the form PREFIX=DIRECTORY")
        return {prefix: _from_text(Path, directory) for prefix, _, directory in pairs}
    if len(words) != 1:
        raise _Unfit(f"one value: {expectation(setting)}")
    if kind in (int, float):
        if not re.fullmatch(r"\d{1,20}", words[0]):
            raise _Unfit(expectation(setting))
        return kind(words[0])
    return _from_text(kind, words[0])


def _from_text(kind: Any, text: str) -> Any:
    if "\0" in text:
        raise _Unfit("text without NUL characters")
    if kind is Path:
        if not text.startswith("/"):
            raise _Unfit("an absolute path")
        return Path(text)
    if kind is Mode:
        if not re.fullmatch(r"0?[0-7]{3}", text):
            raise _Unfit('permissions in octal, such as "0660"')
        return Mode(text, 8)
    return text


def _checked(setting: Setting, value: Any) -> Any:
    if setting.choices and value not in setting.choices:
        close = difflib.get_close_matches(value, setting.choices, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise _Unfit(f"one of {', '.join(setting.choices)}{hint}")
    texts = (value,) if isinstance(value, str) else value if setting.pattern else ()
    if setting.pattern and not all(re.fullmatch(setting.pattern, each) for each in texts):
        raise _Unfit(f"{expectation(setting)} {setting.form}")
    if setting.kind in (int, float) and not setting.minimum <= value < 2**63:
        raise _Unfit(f"{setting.minimum} or more")
    return value


def expectation(setting: Setting) -> str:
    """The description of a setting's valid values, for people."""
    unit = f" of {setting.unit}" if setting.unit else ""
    words = {
        int: f"a whole number{unit}",
        float: f"a number{unit}",
        str: "a string",
        Path: "an absolute path",
        Mode: 'permissions in octal, such as "0660"',
        tuple[str, ...]: "a list of strings",
        tuple[Path, ...]: "a list of absolute paths",
        Mapping[str, Path]: "a table of absolute paths",
        tuple[Webhook, ...]: "a list of tables",
    }
    return words[setting.kind]


def _svcprop_lines(text: str) -> list[list[str]]:
    lines: list[list[str]] = [[]]
    # A backslash escapes any character, including a line end.
    for word in re.findall(r"(?:\\[\s\S]|[^\s\\])+|\n", text):
        if word == "\n":
            lines.append([])
        else:
            lines[-1].append("" if word == '""' else re.sub(r"\\([\s\S])", r"\1", word))
    return [words for words in lines if words]
