"""Secrets of the host in keys: a changed password leads to a rebuild of the layers that contain it.

A key contains only a keyed digest of a secret, so that a reader of the log cannot guess it by trying
words. The launcher makes the digests; this process reads no secret. A missing secret has no digest; the
attempt that needs it reports the error. Blocking. Source: RFC 2104.
"""

from collections.abc import Callable
from dataclasses import replace

from dcd.platform.host_parts import SUFFIX
from statemachine.keys import EXTERNAL, chain
from statemachine.plan import Ingredient, Plan

Digests = Callable[[tuple[str, ...]], dict[str, str]]
"""The digests of secrets, files or variables of the daemon's environment, by name."""


def secret_state(names: tuple[str, ...], digests: Digests) -> dict[str, str]:
    """The digests of secrets as external state."""
    found = digests(names) if names else {}
    return {f"secret {name}{SUFFIX}": digest for name, digest in sorted(found.items())}


def with_secrets(plan: Plan, digests: Digests) -> Plan:
    """The plan with the digests of its checkpoints' secrets in their keys."""
    if not any(planned.secrets for planned in plan.checkpoints):
        return plan
    return chain(
        replace(
            planned,
            ingredients=(
                *planned.ingredients,
                *(
                    Ingredient(EXTERNAL, name, value)
                    for name, value in secret_state(planned.secrets, digests).items()
                ),
            ),
        )
        for planned in plan.checkpoints
    )
