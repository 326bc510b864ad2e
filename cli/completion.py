"""Completion of dcctl's command lines in bash, zsh and fish.

The shells' scripts ask `dcctl completion --words` at each key, so that what they offer is what there is:
builds and groups by id, checkpoints and artifacts of the build on the line, and every command and option
of this dcctl. Where a file is wanted nothing is offered, and the shell completes files. Without a daemon
that answers quickly there are no ids. Never fails, and never writes to stderr.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from cli.client import ClientError, Json, build_path, request

SECONDS = 2.0
"""The time for an answer of the daemon: somebody waits at the keyboard."""

MOST_BUILDS = 100

OF_GROUPS = ("follow", "status", "cancel", "retry", "rm")
"""Commands that take a group's id where they take a build's."""

FITTING = {
    "retry": ("failed",),
    "resume": ("failed", "paused"),
    "move": ("queued", "running"),
}
"""Commands that are possible in some states only."""

Candidate = tuple[str, str]
"""A word, and what it is."""

BASH = """\
# bash completion for dcctl, by `dcctl completion bash`
_dcctl() {
    local found
    COMPREPLY=()
    # Not compgen -W: it would run what a name says.
    while IFS= read -r found; do
        COMPREPLY+=("$(printf %q "$found")")
    done < <(dcctl completion --words "$COMP_CWORD" -- "${COMP_WORDS[@]}" 2>/dev/null | cut -f1)
}
complete -o default -F _dcctl dcctl
"""

ZSH = """\
#compdef dcctl
# zsh completion for dcctl, by `dcctl completion zsh`
_dcctl() {
    local line
    local -a found
    for line in ${(f)"$(dcctl completion --words $((CURRENT - 1)) -- "${words[@]}" 2>/dev/null)"}; do
        found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done
    if (( $#found )); then
        _describe dcctl found
    else
        _files
    fi
}
if [ "$funcstack[1]" = "_dcctl" ]; then
    _dcctl "$@"
else
    compdef _dcctl dcctl
fi
"""

FISH = """\
# fish completion for dcctl, by `dcctl completion fish`
function __dcctl_complete
    set -l before (commandline -opc)
    dcctl completion --words (count $before) -- $before (commandline -ct) 2>/dev/null
end
complete -c dcctl -a '(__dcctl_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def candidates(
    parser: argparse.ArgumentParser, words: Sequence[str], index: int
) -> Iterator[Candidate]:
    """What can be at `index` of a command line, `words[0]` being dcctl, beginning with what is there."""
    word = words[index] if index < len(words) else ""
    # bash hands over `--from=x` as three words.
    word = "" if word == "=" else word
    line = [found for found in list(words)[1:index] if found != "="]
    with suppress(ClientError, OSError, ValueError):
        for found, meaning in _Line(parser, line).offers(word):
            if found.startswith(word):
                yield found, " ".join(meaning.split())


class _Line:
    """The words before the one to complete."""

    def __init__(self, parser: argparse.ArgumentParser, before: list[str]) -> None:
        self.parser = parser
        self.before = before
        self.command = ""
        self.given: list[str] = []
        """Those of the command that are no options."""
        self.pending: argparse.Action | None = None
        """The option whose value comes next."""
        self.socket = str(parser.get_default("socket"))
        self._read()

    def _read(self) -> None:
        for word in self.before:
            if self.pending is not None:
                if "--socket" in self.pending.option_strings:
                    self.socket = word
                self.pending = None
            elif word.startswith("-"):
                name, sign, value = word.partition("=")
                action = self._options().get(name)
                if sign and action is not None and "--socket" in action.option_strings:
                    self.socket = value
                elif action is not None and action.nargs != 0:
                    self.pending = action
            elif not self.command and word in self._commands():
                self.command, self.parser = word, self._commands()[word]
            else:
                self.given.append(word)

    def offers(self, word: str) -> Iterator[Candidate]:
        if "--" in self.before:
            return
        name, sign, _ = word.partition("=")
        if sign and name.startswith("--"):
            action = self._options().get(name)
            if action is not None:
                yield from ((f"{name}={each}", what) for each, what in self._values(action))
        elif self.pending is not None:
            yield from self._values(self.pending)
        elif word.startswith("-"):
            for option, action in self._options().items():
                if action.help != argparse.SUPPRESS or option == "--socket":
                    yield option, str(action.help if action.help != argparse.SUPPRESS else "")
        elif not self.command:
            yield from self._summaries()
        elif (wanted := self._positional()) is not None:
            yield from self._values(wanted)

    def _options(self) -> dict[str, argparse.Action]:
        return {name: each for each in self.parser._actions for name in each.option_strings}

    def _subparsers(self) -> "argparse._SubParsersAction[argparse.ArgumentParser] | None":
        # argparse has no public access to a parser's arguments.
        found = (a for a in self.parser._actions if isinstance(a, argparse._SubParsersAction))
        return next(found, None)

    def _commands(self) -> dict[str, argparse.ArgumentParser]:
        found = self._subparsers()
        return {} if found is None else dict(found.choices)

    def _summaries(self) -> Iterator[Candidate]:
        if (found := self._subparsers()) is not None:
            yield from ((each.dest, str(each.help)) for each in found._choices_actions)

    def _positional(self) -> argparse.Action | None:
        """The argument to which the next word without a hyphen belongs."""
        actions = [each for each in self.parser._actions if not each.option_strings]
        if len(self.given) < len(actions):
            return actions[len(self.given)]
        return actions[-1] if actions and actions[-1].nargs in ("*", "+") else None

    def _values(self, action: argparse.Action) -> Iterator[Candidate]:
        metavar = str(action.metavar)
        if action.choices:
            yield from ((str(choice), "") for choice in action.choices)
        elif metavar == "BUILD":
            yield from self._builds()
            if self.command in OF_GROUPS:
                yield from self._groups()
        elif metavar == "GROUP":
            yield from self._groups()
        elif metavar == "HOST":
            yield from ((each["host"], each["state"]) for each in self._ask("/v1/hosts")["hosts"])
        elif metavar == "CHECKPOINT":
            yield from self._checkpoints()
        elif metavar == "NAME" and self.command == "download":
            build = self._ask(build_path(self.given[0]))
            yield from (
                (each["name"], each["format"])
                for each in build["artifacts"]
                if each["name"] not in self.given
            )

    def _builds(self) -> Iterator[Candidate]:
        for build in self._listed:
            if build["id"] not in self.given:
                yield build["id"], f"{build.get('name', '')} {build.get('state', '')}"

    def _groups(self) -> Iterator[Candidate]:
        """The groups of the builds: their ids begin with the group's."""
        names: dict[str, list[str]] = {}
        for build in self._listed:
            group, dash, _ = str(build["id"]).partition("-")
            if dash and group not in self.given:
                names.setdefault(group, []).append(build.get("name", ""))
        for group, of in names.items():
            yield group, f"{' '.join(dict.fromkeys(of))}: a group of {len(of)}"

    @cached_property
    def _listed(self) -> Sequence[Json]:
        states = FITTING.get(self.command)
        query = {"limit": MOST_BUILDS, "state": ",".join(states) if states else None}
        path = "/v1/builds"
        answer = request(self.socket, "GET", path, query=query, timeout_seconds=SECONDS)
        return list(answer["builds"])

    def _checkpoints(self) -> Iterator[Candidate]:
        if not self.given:
            return
        if self.command in ("submit", "build"):
            text = Path(self.given[0]).read_text("utf-8", "replace")
            names = re.findall(r"<checkpoint\b[^>]*?\bname\s*=\s*[\"']([^\"']+)", text)
            yield from ((name, "") for name in names)
            return
        for item in self._ask(build_path(self.given[0]))["checkpoints"]:
            yield item["name"], item["state"]

    def _ask(self, path: str) -> Json:
        return request(self.socket, "GET", path, timeout_seconds=SECONDS)
