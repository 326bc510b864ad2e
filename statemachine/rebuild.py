"""What a rebuild is compared with: the results of the build that it repeats, by digest.

It is in the rebuild's first event, so the verdict needs neither the other build nor its server. Pure data.
"""

from dataclasses import dataclass, field

from statemachine.plan import Plan


@dataclass(frozen=True, slots=True)
class Rebuild:
    """`build` is the id of the other build, `builder` the URI of its server, `version` its version of dcd,
    `provenance` the sha256 of its provenance's text. `products` maps names to sha256, `contents` checkpoints
    to the digests of their content manifests, `manifests` to those of the uploaded files with these. `plan`
    has what provenance may show of keys and ingredients. `vouched`: the build is another server's, and all of
    this was found in its provenance, which the key `signed_by` has signed ("": that was not checked)."""

    build: str
    builder: str
    version: str
    provenance: str
    products: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, str] = field(default_factory=dict)
    plan: Plan | None = None
    vouched: bool = False
    signed_by: str = ""
