"""Generating texts from the table of settings: reference page, manual page dcd.toml(5), example file.

    python -m dcd.configuration.describe reference    docs/reference/configuration.md
    python -m dcd.configuration.describe manual       the manual page, as roff
    python -m dcd.configuration.describe example      the dcd.toml that the package installs

Each prints to standard output; used when documentation and packages are built.
"""

import json
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

from dcd.configuration.origin import plain
from dcd.configuration.read import expectation
from dcd.configuration.settings import SETTINGS, Setting

_WIDTH = 100

_EMPTY_EXAMPLES = {
    "include_directories": '["/srv/manifests"]',
    "include_map": '{ "/usr/share/distro_const/" = "/srv/caiman/manifest" }',
    "checkpoint_modules": '["acme.checkpoints.*"]',
    "operate": '["@release"]',
    "administer": '["alice"]',
    "host_code": '["@release"]',
    "notify": '[{ name = "ci", url = "https://ci.example.org/dcd", secret = "/etc/dcd/hooks/ci" }]',
}
"""Example values for settings with an empty default."""


MANUAL_EXAMPLE = """\
max_running_builds = 2
layers_max_bytes = 53687091200
failed_builds_days = 14
operate = ["@release"]

[[notify]]
name = "ci"
url = "https://ci.example.org/hooks/dcd"
secret = "/etc/dcd/hooks/ci"
outcomes = ["completed", "failed"]
"""
"""The example of dcd.toml(5)."""


def toml(value: Any) -> str:
    """A setting's value as TOML."""
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in plain(value).items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return f"{value:g}" if isinstance(value, float) else json.dumps(plain(value))


def example() -> str:
    """A dcd.toml in which every setting is commented out with its default."""
    parts = [
        "# Settings of the distribution constructor daemon; dcd.toml(5) describes the format.\n"
        "# `systemctl reload dcd` applies changes, except where a setting says otherwise; `dcctl config` "
        "shows\n# the effective values. Commented-out lines show the defaults.\n"
    ]
    for setting in SETTINGS.values():
        comment = textwrap.fill(
            f"{setting.description} {_note(setting)}".strip(),
            _WIDTH,
            initial_indent="# ",
            subsequent_indent="# ",
        )
        shown = _EMPTY_EXAMPLES.get(setting.name)
        instead = f"\n# for example: {shown}" if shown else ""
        parts.append(f"{comment}{instead}\n#{setting.name} = {toml(setting.default)}\n")
    return "\n".join(parts)


_REFERENCE = """\
# Configuration

<!-- Made from the table of settings: python -m dcd.configuration.describe reference -->

Settings come from, strongest first: options of `dcd serve`, environment variables, one TOML
file (`--config FILE`; the Debian package uses `/etc/dcd/dcd.toml`) or, on illumos, the
properties of the service's property group `config` (`--from-smf`), and defaults. `dcctl config`
shows each effective value and its origin. An unknown or wrong setting is an error, not
a warning, and names the file and line.

`systemctl reload dcd`, `svcadm refresh dcd` or `dcctl config --reload` applies changes without
touching builds: a lowered `layers_max_bytes` removes layers and a raised `max_running_builds`
starts builds at once, and roles apply from the next request on. Settings marked *restart* wait for
the next start; the answer of `dcctl config --reload`, the daemon's log and `systemctl status dcd`
name them.

{settings}
## In SMF

The properties have the same names, below `config/`. Numbers have type `count`, all others
`astring`; lists have several values, each value of `include_map` is `PREFIX=DIRECTORY`,
and one of `notify` is `name=NAME url=URL secret=FILE` with further `KEY=VALUE`, lists with commas.
"""


def reference() -> str:
    """The reference page, in Markdown."""
    return _REFERENCE.format(settings="\n".join(map(_section, SETTINGS.values())))


def _section(setting: Setting) -> str:
    facts = [f"{expectation(setting)}; default `{toml(setting.default)}`"]
    if setting.choices:
        facts.append(f"one of {', '.join(f'`{choice}`' for choice in setting.choices)}")
    if setting.minimum:
        facts.append(f"at least {setting.minimum}")
    if shown := _EMPTY_EXAMPLES.get(setting.name):
        facts.append(f"for example `{shown}`")
    if setting.environment:
        facts.append(f"environment variable `{setting.environment}`")
    if not setting.reloads:
        facts.append("*restart*")
    listed = "".join(f"- {fact}\n" for fact in facts)
    return f"## `{setting.name}`\n\n{textwrap.fill(setting.description, _WIDTH)}\n\n{listed}"


def manual() -> str:
    """dcd.toml(5), as roff (man(7))."""
    parts = [
        '.TH DCD.TOML 5 "" dcd "File Formats"',
        ".SH NAME",
        r"dcd.toml \- settings of the distribution constructor daemon",
        ".SH SYNOPSIS",
        "/etc/dcd/dcd.toml",
        ".SH DESCRIPTION",
        _roff(
            "A TOML file; every setting is a key at the top level, and webhooks are tables. "
            "With an unknown key or a value of another type, the daemon does not start and a reload has no "
            "effect. `dcctl config` shows the effective values and their origins."
        ),
        ".SH SETTINGS",
    ]
    for setting in SETTINGS.values():
        facts = f"{expectation(setting).capitalize()}; default {toml(setting.default)}. {_note(setting)}"
        parts += [
            ".TP",
            f".B {setting.name}",
            _roff(setting.description),
            ".br",
            _roff(facts.strip()),
        ]
    parts += [
        ".SH FILES",
        ".TP",
        ".B /etc/dcd/dcd.toml",
        _roff("the settings of the service; `dcd serve --config` reads another file"),
        ".SH EXAMPLES",
        _roff(
            "Two builds at a time, at most 50 GiB of layers, failed builds for two weeks, rights for "
            "a group, and a webhook:"
        ),
        *(".PP", ".in +4n", ".EX", _roff(MANUAL_EXAMPLE.rstrip()), ".EE", ".in"),
        *(".SH SEE ALSO", ".BR dcctl (1),", ".BR dcd (8)"),
    ]
    return "\n".join(parts) + "\n"


def _note(setting: Setting) -> str:
    choices = f"One of {', '.join(setting.choices)}." if setting.choices else ""
    restart = "" if setting.reloads else "Needs a restart."
    return f"{choices} {restart}".strip()


def _roff(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("`", "")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


_FORMS = {"reference": reference, "manual": manual, "example": example}


if __name__ == "__main__":
    if sys.argv[1:] not in [[name] for name in _FORMS]:
        sys.exit(f"usage: python -m dcd.configuration.describe {'|'.join(_FORMS)}")
    sys.stdout.write(_FORMS[sys.argv[1]]())
