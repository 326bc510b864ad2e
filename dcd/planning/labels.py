"""The labels that a build requires of the host that makes it (`dcd.platform.host_labels`).

They follow from the plan: the architecture of the image, the tools, the secrets; and from the manifest's
`<placement>`. In a farm one more names the code of the checkpoints that planned the build.
"""

import hashlib
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

import dcd.checkpoints
from dcd.checkpoints.architecture import image_architecture
from dcd.construction.constructors import GROUP
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.objects import Require
from dcd.manifest.plugins import plugin_entries
from dcd.platform.host_labels import of_code, of_secret, of_tool, plain, public
from statemachine.errors import Unprepared, UsageError
from statemachine.plan import Plan

CODE = "dcd of the host"
"""The name of the code of the checkpoints among the external state of a key."""


@cache
def code_label() -> str:
    """The label of the code of this host's checkpoints: of the project's, and the versions of plug-ins. What
    `checkpoint_modules` names is not in it. Blocking."""
    plugins = [(each.value, each.dist and each.dist.version) for each in plugin_entries(GROUP)]
    found = hashlib.sha256(repr(plugins).encode())
    package = Path(dcd.checkpoints.__path__[0])
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(package)} {len(content)}\n".encode())
        found.update(content)
    return of_code(found.hexdigest()[:12])


def with_code(external: Mapping[str, str], requires: Collection[str]) -> dict[str, str]:
    """The external state in a checkpoint's key, with the code of this host's checkpoints where a build was
    planned by other code: its plan has the digests of that."""
    found = {name: state for name, state in external.items() if name != CODE}
    planned = [label for label in requires if label.startswith(of_code(""))]
    if planned and planned != [code_label()]:
        found[CODE] = code_label().removeprefix(of_code(""))
    return found


def placement(doc: DataObjectCache) -> tuple[str, ...]:
    """The labels that the manifest asks for, without repetitions, sorted."""
    return tuple(sorted({each.label for each in distro(doc).get_descendants(class_type=Require)}))


def required(plan: Plan, doc: DataObjectCache) -> tuple[str, ...]:
    """All labels that a build requires, sorted."""
    found = {image_architecture(doc), *placement(doc)}
    for planned in plan.checkpoints:
        found |= {of_tool(name) for name in planned.tools}
        found |= {of_secret(name) for name in planned.secrets}
    return tuple(sorted(found))


def refuse_secrets(asked: Collection[str]) -> None:
    """Raise UsageError for labels of secrets: a build that runs with one shows that the secret exists."""
    if secrets := sorted(label for label in asked if label.startswith(of_secret(""))):
        raise UsageError(
            f"a label names a secret: {' '.join(secrets)}",
            "a build goes by itself to a host that has the secrets that it uses",
            "leave out --require and <require> for it",
        )


def require_labels(asked: Collection[str], found: Collection[str]) -> None:
    """Raise Unprepared when this host, the only one, lacks labels that a submit asks for; `found` are its
    own. Nobody learns by a label whether a secret exists: builds that use one require it by themselves."""
    if lacking := sorted(set(asked).difference(public(found))):
        raise Unprepared(
            f"no member has {'+'.join(sorted(asked))}; this host has {plain(found)}",
            f"it lacks {' and '.join(lacking)}",
            "submit it to a host with these labels, or leave out --require and <require> for them",
        )
