"""Manifests without the secrets in them, for everybody but whoever supplied these.

Which fields are secret, the classes of data objects say (`SECRETS`); a login in a URL is one
wherever it is, and so is a secret that got into an argument too. References to secrets (`file`, `env`) stay:
they tell nothing.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dcd.manifest.canonical import canonical_text, restore
from dcd.manifest.data_object import DataObject, fields_of
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.fields import Field
from dcd.manifest.objects.execution import Arg, ArgList, Args
from statemachine.errors import InvalidManifest
from statemachine.plan import Json, Plan

WITHHELD = "***"
"""What a value that holds a secret becomes."""

_LOGIN = re.compile(r"(?<=://)[^/?#@\s'\"]+(?=@)")
_LEAST = 4
"""A shorter text is no secret for being in one, or for holding one."""


@dataclass(frozen=True, slots=True)
class Withheld:
    """A manifest without secrets, and what these were."""

    text: str
    secrets: frozenset[str]
    everything: bool = False
    """It cannot be read, so that all of it counts as secret."""

    def value(self, text: str) -> str:
        """A parameter or an argument without the secrets of the manifest."""
        if (
            self.everything
            or text in self.secrets
            or (len(text) >= _LEAST and any(text in secret for secret in self.secrets))
        ):
            return WITHHELD
        return _without(text, self.secrets)

    def values(self, given: Mapping[str, str]) -> dict[str, str]:
        """The same for parameters."""
        return {name: self.value(text) for name, text in given.items()}

    def plan(self, plan: Plan) -> Plan:
        """The same for the arguments of a plan."""
        return replace(
            plan,
            checkpoints=tuple(
                replace(
                    planned,
                    args=tuple(self._json(value) for value in planned.args),
                    kwargs={name: self._json(value) for name, value in planned.kwargs.items()},
                )
                for planned in plan.checkpoints
            ),
        )

    def _json(self, value: Json) -> Json:
        if isinstance(value, str):
            return WITHHELD if self.everything else _without(value, self.secrets)
        if isinstance(value, list | tuple):
            return [self._json(item) for item in value]
        return value


def withheld(canonical: str) -> Withheld:
    """A stored manifest without its secrets. Takes as long as to parse it: planners call it. Of one that an
    earlier version stored and this one refuses, nothing is left."""
    try:
        doc = restore(canonical)
    except InvalidManifest:
        return Withheld("", frozenset(), everything=True)
    secrets = withhold(doc)
    return Withheld(canonical_text(doc) if secrets else canonical, frozenset(secrets))


def withhold(doc: DataObjectCache) -> set[str]:
    """Take the secrets out of a DOC. Returns them."""
    secrets: set[str] = set()
    for found, field, value in _texts(doc):
        logins = {login for text in value for login in _LOGIN.findall(text)}
        if field.name in type(found).SECRETS:
            secrets.update(text for text in value if text)
            setattr(found, field.name, "" if field.required else field.default)
        elif logins:
            secrets.update(logins)
            _change(found, field, lambda text: _without(text, ()))
    for found, field, _ in _texts(doc):
        if isinstance(found, Args | Arg | ArgList):
            _change(found, field, lambda text: _without(text, secrets))
    return secrets


def _texts(doc: DataObjectCache) -> Iterator[tuple[DataObject, Field, tuple[str, ...]]]:
    """Every field of the DOC that is text or a list of texts, with its value as a list."""
    for tree in (doc.volatile, doc.persistent):
        for found in (tree, *tree.get_descendants()):
            for field in fields_of(type(found)):
                value: Any = getattr(found, field.name)
                texts = (value,) if isinstance(value, str) else value
                if isinstance(texts, tuple) and all(isinstance(text, str) for text in texts):
                    yield found, field, texts


def _change(found: DataObject, field: Field, change: Callable[[str], str]) -> None:
    value: Any = getattr(found, field.name)
    new = change(value) if isinstance(value, str) else tuple(map(change, value))
    setattr(found, field.name, new)


def _without(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        if len(secret) >= _LEAST:
            text = text.replace(secret, WITHHELD)
    return _LOGIN.sub(WITHHELD, text)
