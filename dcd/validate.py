"""Checking manifests without a daemon: `dcd validate`, for editors, hooks and continuous integration.

The checks are those of `dcctl validate`, made by the same code in this process, with the caller's rights.
Nothing is built, stored or asked of the network, and no code of the manifest is run: of the commands in
`<validation>` only those that parse a file. Copies of the files that a manifest names are in a temporary
directory until it is checked.
"""

import contextlib
import resource
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cli.capture import complete, read_manifest
from cli.client import ClientError
from cli.exit_codes import ExitCode
from dcd.configuration import Configuration
from dcd.manifest.diagnostics import ManifestError
from dcd.manifest.inputs import InputsMissing
from dcd.planner.rules import rules_of
from dcd.planner.tasks import CHECK, Captured, Manifest

Diagnostics = list[dict[str, Any]]
"""In the form of the API: severity, file, line, column, message, why, suggestion."""


class Given(NamedTuple):
    """The values of parameters, and the names of the selected profiles."""

    parameters: Mapping[str, str] = {}
    profiles: tuple[str, ...] = ()


def validate(
    paths: Sequence[str], given: Given, settings: Configuration
) -> Iterator[tuple[str, bool, Diagnostics]]:
    """Each path, whether its manifest is valid, and what there is to say about it. `given` applies to
    all. Raises ClientError for something other than a fault of the manifest."""
    for path in paths:
        try:
            yield path, True, _warnings(path, given, settings)
        except ClientError as error:
            if error.exit_code != ExitCode.INVALID_MANIFEST:
                raise
            yield path, False, error.diagnostics or [_fault(path, error)]
        except MemoryError:
            too_large = ClientError(
                "invalid-manifest", "reading the manifest takes too much memory"
            )
            yield path, False, [_fault(path, too_large)]


def _warnings(path: str, given: Given, settings: Configuration) -> Diagnostics:
    """The warnings about a valid manifest. Raises ClientError."""
    with tempfile.TemporaryDirectory(prefix="dcd-validate-") as name:
        kept = Path(name)

        def keep(sha256: str, pieces: Iterator[bytes], size_bytes: int) -> None:
            with (kept / sha256).open("wb") as file:
                file.writelines(pieces)

        def ask(body: dict[str, Any]) -> dict[str, Any]:
            files = {
                path: None if file is None else Captured(path=kept / file["sha256"], **file)
                for path, file in body["files"].items()
            }
            return {
                "ok": True,
                "diagnostics": _check(body["manifest"], files, given, settings),
            }

        answer = complete({"manifest": read_manifest(path)}, ask, keep)
        return list(answer["diagnostics"])


def _check(
    manifest: Mapping[str, str],
    files: Mapping[str, Captured | None],
    given: Given,
    settings: Configuration,
) -> Any:
    """As the daemon answers: the warnings. Raises ClientError with its errors, or with missing files."""
    question = Manifest(
        text=manifest["text"],
        path=manifest["path"],
        files=files,
        parameters=given.parameters,
        profiles=given.profiles,
        rules=rules_of(settings),
        host_code=None,
    )
    try:
        return msgspec.to_builtins(CHECK.work(question, lambda: None))
    except (ManifestError, InputsMissing) as error:
        extra = {"missing": msgspec.to_builtins(error.missing)}
        if isinstance(error, ManifestError):
            extra["diagnostics"] = msgspec.to_builtins(error.diagnostics)
        raise ClientError(
            error.problem, error.brief, error.details, error.resolution, extra
        ) from None


def _fault(path: str, error: ClientError) -> dict[str, Any]:
    """The error as a diagnostic about a whole file."""
    return {
        "severity": "error",
        "file": str(Path(path).absolute()),
        "line": 0,
        "column": 0,
        "message": error.brief,
        "why": error.details,
        "suggestion": error.resolution,
    }


def limit_memory(most_bytes: int) -> None:
    """Bound the memory of this process, which a hostile manifest could otherwise exhaust."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bounds = [each for each in (most_bytes, soft, hard) if each != resource.RLIM_INFINITY]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
