"""Checking received files against their provenance and the publisher's key, for `dcctl verify`."""

import argparse
from pathlib import Path

from cli.client import ClientError, Json
from cli.exit_codes import ExitCode
from cli.signature import PublicKey, altered, read_key
from cli.statements import (
    BOOT_SUFFIXES,
    PROVENANCE,
    REBUILD_SUFFIXES,
    SUFFIXES,
    TEST_RESULT,
    VERIFICATION_SUMMARY,
    Statement,
    load,
    sha256_of,
    statements_beside,
    stem_of,
)
from cli.sums import LIST, Keys, List, check_list, check_listed, list_beside
from cli.text import print_json, printable

NOT_PROVED = (
    "that the builder is honest, and that its server was not taken over",
    "that the manifest is the one that you expect: compare its digest",
    "that this is the newest release of the image",
    "that the software in the image has no defects: see its SBOM",
)


def verify_files(args: argparse.Namespace) -> int:
    """Check each file; the first problem ends the command."""
    keys = Keys(None if args.key is None else read_key(args.key), args.keyring)
    reports = [
        check_list(file, keys, ignore_missing=args.ignore_missing)
        if file.name == LIST
        else _report(file, args.provenance, keys, args.builder)
        for file in args.files
    ]
    proved = all(report["verified"] for report in reports)
    if args.json:
        print_json({"files": reports, "verified": proved, "not_proved": list(NOT_PROVED)})
    else:
        for report in reports:
            _print(report)
        if proved:
            print("\nThis does not prove:")
            for line in NOT_PROVED:
                print(f"  - {line}")
    return ExitCode.OK if proved else ExitCode.UNPROVED


def _report(file: Path, given: Path | None, keys: Keys, builder: str | None) -> Json:
    """What is known about a file. Raises ClientError when anything contradicts it."""
    sha256, key = sha256_of(file), keys.key
    if given is not None and (stem := stem_of(given, REBUILD_SUFFIXES)) is not None:
        paths = _copies(stem, REBUILD_SUFFIXES)
        verdict = load(stem, paths or [given], VERIFICATION_SUMMARY, key)
        return _rebuilt(file, sha256, verdict, key, builder)
    try:
        found = _provenance(file, sha256, given, key)
    except ClientError as error:
        if error.kind != "unproved" or builder is not None:
            raise
        if (listed := _listed(file, sha256, keys)) is None:
            raise
        return _by_list(file, sha256, listed)
    name = _subject(file, sha256, found)
    by = found.at("runDetails", "builder", "id")
    manifest = ("buildDefinition", "externalParameters", "manifest", "digest", "sha256")
    _require_builder(file, by, builder)
    listed = _listed(file, sha256, keys)
    if listed is not None and not found.signed_by and builder is None:
        return _by_list(file, sha256, listed)
    return {
        "file": str(file),
        "sha256": sha256,
        "subject": name,
        "verified": bool(found.signed_by),
        "signature": _signature(found, key),
        "key_id": found.signed_by,
        "builder": by,
        "build": found.at("runDetails", "metadata", "invocationId"),
        "manifest_sha256": found.at(*manifest),
        "booted": _booted(found.stem, sha256, key),
        "listed": LIST if listed else "",
    }


def _rebuilt(
    file: Path, sha256: str, found: Statement, key: PublicKey | None, verifier: str | None
) -> Json:
    """The report by the verdict of a rebuilder."""
    name = _subject(file, sha256, found)
    by = found.at("verifier", "id")
    _require_builder(file, by, verifier)
    if found.at("verificationResult") != "PASSED":
        raise altered(Path(found.stem), "it is the verdict of no rebuild that was good")
    attested = found.value["predicate"].get("inputAttestations")
    match attested:
        case [{"digest": {"sha256": str(provenance)}}]:
            pass
        case _:
            provenance = ""
    return {
        "file": str(file),
        "sha256": sha256,
        "subject": name,
        "verified": bool(found.signed_by),
        "signature": _signature(found, key),
        "key_id": found.signed_by,
        "rebuilder": by,
        "provenance_sha256": provenance,
    }


def _subject(file: Path, sha256: str, found: Statement) -> str:
    """The name of the file in a statement. Raises ClientError when that is about others."""
    for name, digest in found.subjects.items():
        if digest == sha256:
            return name
    raise _made_for_others(file, sha256, found)


def _require_builder(file: Path, by: str, expected: str | None) -> None:
    if expected is not None and by != expected:
        raise ClientError(
            "other-builder",
            f"{file} was made by another builder",
            f"its provenance names {by[:200]}, you expect {expected}",
            "ask the publisher of the image which builder is right",
        )


def _by_list(file: Path, sha256: str, listed: List) -> Json:
    """The report about a file that a signed list proves. It says nothing of its builder."""
    return {
        "file": str(file),
        "sha256": sha256,
        "subject": file.name,
        "verified": True,
        "signature": listed.signature,
        "key_id": ", ".join(listed.signed_by),
        "listed": LIST,
    }


def _listed(file: Path, sha256: str, keys: Keys) -> List | None:
    """The signed list beside a file, which names it; None without one. Raises ClientError when it names
    another file."""
    found = list_beside(file, keys)
    if found is None or not found.signed_by:
        return None
    check_listed(file, sha256, found)
    return found


def _provenance(file: Path, sha256: str, given: Path | None, key: PublicKey | None) -> Statement:
    if given is not None:
        stem = stem_of(given)
        others = [] if stem is None else _copies(stem, SUFFIXES)
        paths = [given, *(path for path in others if path.absolute() != given.absolute())]
        return load(stem or "", paths, PROVENANCE, key)
    stems = statements_beside(file)
    if not stems:
        raise ClientError(
            "unproved",
            f"there is no provenance beside {file}",
            f"looked for *{', *'.join(SUFFIXES)}",
            "get it from the publisher of the image, or name it with --provenance",
        )
    found, wrong = [], []
    for stem in stems:
        # One damaged file must not hide that another build made this file.
        try:
            statement = load(stem, _copies(stem, SUFFIXES), PROVENANCE, key)
        except ClientError as error:
            wrong.append(error)
            continue
        if sha256 in statement.subjects.values():
            return statement
        found.append(statement)
    raise wrong[0] if wrong else _made_for_others(file, sha256, *found)


def _made_for_others(file: Path, sha256: str, *found: Statement) -> ClientError:
    expected = [each.subjects[file.name] for each in found if file.name in each.subjects]
    names = ", ".join(sorted({name for each in found for name in each.subjects})[:10])
    details = (
        f"its sha256 is {sha256}, the provenance says {expected[0]}"
        if expected
        else f"its sha256 is {sha256}; the provenance is about {names}"
    )
    return ClientError(
        "other-file",
        f"the provenance is not about {file}",
        details,
        "the file is altered or of another build: do not use it",
    )


def _copies(stem: str, suffixes: tuple[str, ...]) -> list[Path]:
    return [path for suffix in suffixes if (path := Path(stem + suffix)).exists()]


def _signature(found: Statement, key: PublicKey | None) -> str:
    if found.signed_by:
        return "verified"
    if not found.envelopes:
        return "none"
    return "not checked" if key is None else "none"


def _booted(stem: str, sha256: str, key: PublicKey | None) -> list[str]:
    """The boots of this very file that the builder has signed for."""
    if key is None or not (paths := _copies(stem, BOOT_SUFFIXES)):
        return []
    proof = load(stem, paths, TEST_RESULT, key)
    if not proof.signed_by or sha256 not in proof.subjects.values():
        return []
    passed = proof.value["predicate"].get("passedTests")
    return [str(name) for name in passed] if isinstance(passed, list) else []


def _print(report: Json) -> None:
    about = "the list" if "files" in report else "the provenance"
    of = f" as in {LIST if report.get('listed') and not report.get('build') else 'the provenance'}"
    lines = {
        "sha256": report["sha256"] + ("" if "files" in report else f"{of}, of {report['subject']}"),
        "signature": {
            "verified": f"by the key {report['key_id']}",
            "not checked": "NOT CHECKED: give the publisher's key with --key or --keyring",
            "none": f"NONE: anybody could have written {about}",
        }[report["signature"]],
        "builder": report.get("builder"),
        "rebuilt by": report.get("rebuilder"),
        "from": report.get("provenance_sha256") and f"the provenance {report['provenance_sha256']}",
        "build": report.get("build"),
        "manifest": report.get("manifest_sha256"),
        "booted": ", ".join(report.get("booted", ())),
        "listed": f"in the signed {LIST} too"
        if report.get("listed") and report.get("build")
        else "",
    }
    print(f"{printable(report['file'])}: {'verified' if report['verified'] else 'NOT PROVED'}")
    for name, value in lines.items():
        if value:
            print(f"  {name:<10} {printable(value)}")
    for each in report.get("files", ()):
        print(f"  {each['state']:<10} {printable(each['name'])}")
