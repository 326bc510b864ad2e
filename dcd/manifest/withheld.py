"""Manifests without their secrets, for everybody except the supplier of the secrets.

Secret are the fields in `SECRETS` of the classes of data objects, arguments whose names have `password` in
them, every login in a URL, and copies of these in arguments. References to secrets (`file`, `env`) are not
secret.
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
"""Replaces a value that holds a secret."""

_LOGIN = re.compile(r"(?<=://)[^/?#@\s'\"]+(?=@)")
_SECRET_ARGUMENTS = ("password",)
"""Parts of the names of arguments whose values are secret."""
_LEAST = 4
"""A shorter text may be part of a secret by accident, and is not replaced."""


@dataclass(frozen=True, slots=True)
class Withheld:
    """A manifest without secrets, and the secrets."""

    text: str
    secrets: frozenset[str]
    everything: bool = False
    """The manifest cannot be read, so all of it counts as secret."""

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
    """A stored manifest without its secrets; empty if an earlier version stored it and this one refuses it.
    Planners call it, since it parses the manifest."""
    try:
        doc = restore(canonical)
    except InvalidManifest:
        return Withheld("", frozenset(), everything=True)
    secrets = withhold(doc)
    return Withheld(canonical_text(doc) if secrets else canonical, frozenset(secrets))


def withhold(doc: DataObjectCache) -> set[str]:
    """Remove the secrets from a DOC. Returns them."""
    secrets: set[str] = set()
    for found, field, value in _texts(doc):
        logins = {login for text in value for login in _LOGIN.findall(text)}
        if field.name in type(found).SECRETS:
            secrets.update(text for text in value if text)
            setattr(found, field.name, "" if field.required else field.default)
        elif isinstance(found, Arg) and field.name == "text" and _is_secret(found.name):
            secrets.update(text for text in value if text)
            found.text = WITHHELD
        elif logins:
            secrets.update(logins)
            _change(found, field, lambda text: _without(text, ()))
    for found, field, _ in _texts(doc):
        if isinstance(found, Args | Arg | ArgList):
            _change(found, field, lambda text: _without(text, secrets))
    return secrets


def _is_secret(argument: str) -> bool:
    return any(part in argument for part in _SECRET_ARGUMENTS)


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
