"""What the provenance of another server's build vouches for, and whether a submit of its export is that.

The verdict of such a rebuild names the provenance by its digest, and may be signed. So all that the submit
says of that build has to be in the provenance: what it made, by whom, and from what. The ingredients of the
checkpoints are covered by the keys in it, which are chained again.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from dcd.planner.tasks import Planned
from dcd.signing.checking import require_modest
from statemachine.errors import UsageError
from statemachine.provenance import BUILD_TYPE, public
from statemachine.rebuild import Rebuild
from statemachine.statements import PROVENANCE, STATEMENT, UNNAMED

MOST_BYTES = 8 << 20
"""The size of a provenance that is read."""


class Named(msgspec.Struct, frozen=True):
    """A resource descriptor."""

    name: str = ""
    uri: str = ""
    digest: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}

    @property
    def sha256(self) -> str:
        """Its sha256; "" without one."""
        return self.digest.get("sha256", "")


class Checkpoint(msgspec.Struct, frozen=True):
    """A checkpoint of the plan."""

    name: str
    key: str
    kind: str = msgspec.field(name="class")


class External(msgspec.Struct, frozen=True):
    """What the submitter gave."""

    manifest: Named
    exported_manifest: Named = Named()
    source_date_epoch: int | None = None


class Internal(msgspec.Struct, frozen=True):
    """What the builder planned."""

    checkpoints: tuple[Checkpoint, ...]


class Definition(msgspec.Struct, frozen=True, rename="camel"):
    """See docs/reference/provenance.md."""

    build_type: str
    external_parameters: External
    internal_parameters: Internal
    resolved_dependencies: tuple[Named, ...]


class Builder(msgspec.Struct, frozen=True):
    """The builder, and its versions."""

    id: str
    version: Mapping[str, str] = {}


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """The build."""

    invocation_id: str


class Run(msgspec.Struct, frozen=True):
    """The run."""

    builder: Builder
    metadata: Metadata
    byproducts: tuple[Named, ...]


class Predicate(msgspec.Struct, frozen=True, rename="camel"):
    """SLSA provenance v1, what is read of it."""

    build_definition: Definition
    run_details: Run


class Statement(msgspec.Struct, frozen=True, rename="camel"):
    """An in-toto statement v1 with it."""

    subject: tuple[Named, ...]
    predicate_type: str
    predicate: Predicate
    type: str = msgspec.field(name="_type")


def read_statement(content: bytes, rebuild: Rebuild) -> Statement:
    """The provenance of the build that `rebuild` is to be compared with. Raises UsageError unless it says
    the same of that build."""
    _same("provenance", rebuild.provenance, hashlib.sha256(content).hexdigest())
    require_modest(content)
    try:
        said = msgspec.json.decode(content, type=Statement)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _differs("provenance", str(error)[:300]) from None
    definition, run = said.predicate.build_definition, said.predicate.run_details
    kinds = (said.type, said.predicate_type, definition.build_type)
    _same("type of provenance", kinds, (STATEMENT, PROVENANCE, BUILD_TYPE))
    own = definition.external_parameters.manifest.name
    subjects = [(each.name, each.sha256) for each in said.subject]
    products = {name: sha256 for name, sha256 in subjects if name != own}
    _same("number of products", len(subjects), len(dict(subjects)))
    _same("products", rebuild.products, products)
    _same("build", rebuild.build, run.metadata.invocation_id)
    _same("builder", rebuild.builder or UNNAMED, run.builder.id)
    _same("version of dcd", rebuild.version, run.builder.version.get("dcd", ""))
    contents = {
        each.name: each.sha256
        for each in run.byproducts
        if each.uri == "urn:dcd:checkpoint" and each.sha256
    }
    _same("results of checkpoints", rebuild.contents, contents)
    _same("content manifests", sorted(rebuild.manifests.keys() - contents.keys()), [])
    if rebuild.plan is not None:
        plan = [
            (each.name, f"{each.mod_path}:{each.checkpoint_class}", each.key)
            for each in public(rebuild.plan).checkpoints
        ]
        checkpoints = definition.internal_parameters.checkpoints
        _same("plan", plan, [(each.name, each.kind, each.key) for each in checkpoints])
    return said


def check_submit(
    said: Statement, manifest: str, lists: tuple[str, ...], parameters: Mapping[str, str]
) -> None:
    """Raise UsageError unless the submitted manifest and lists of packages are those of the provenance."""
    external = said.predicate.build_definition.external_parameters
    exported = external.exported_manifest
    _same("manifest", hashlib.sha256(manifest.encode()).hexdigest(), exported.sha256)
    _same("parameters", dict(parameters), {})
    _same("lists of packages", lists, _dependencies(said, "urn:dcd:packages"))


def check_planned(said: Statement, planned: Planned) -> None:
    """Raise UsageError unless the files, the name and the time of the planned build are those of the
    provenance: each by its path in the manifest, so the manifest's own path, of which the provenance says
    nothing, changes none. The plan may have fewer files: included ones are in the manifest of an export."""
    definition = said.predicate.build_definition
    files = {
        (each.name, each.sha256, each.annotations.get("mode", ""))
        for each in definition.resolved_dependencies
        if each.uri == "urn:dcd:input"
    }
    used = {(each.path, each.sha256, f"{each.mode:04o}") for each in planned.inputs}
    _same("files", sorted(used - files), [])
    external = definition.external_parameters
    _same("name", f"{planned.name}.xml", external.manifest.name)
    _same("time", planned.time.seconds, external.source_date_epoch)


def _dependencies(said: Statement, uri: str) -> tuple[str, ...]:
    found = said.predicate.build_definition.resolved_dependencies
    return tuple(dict.fromkeys(each.sha256 for each in found if each.uri == uri))


def _same(what: str, given: Any, vouched: Any) -> None:
    if given != vouched:
        raise _differs(what, f"the provenance says {str(vouched)[:200]}, not {str(given)[:200]}")


def _differs(what: str, details: str) -> UsageError:
    return UsageError(
        f"the submit of a rebuild does not match its provenance: {what}",
        details,
        "send an export as its publisher has it: dcctl rebuild FILE --key PEM",
    )
