"""References inside the manifest's strings: `{TOKEN}` for an area of the workspace, `%{path}` into the DOC.

Both are replaced when a checkpoint runs, since earlier checkpoints may create the objects of a path. A token
that looks mistyped is an error; a path that names nothing yet is a warning.
"""

import re
from collections.abc import Iterator

from dcd.manifest.data_object import Origin, attributes_of
from dcd.manifest.diagnostics import Diagnostic, did_you_mean, error, listed, warning
from dcd.manifest.paths import PathError, parse_path, references
from dcd.manifest.source import Source

TOKENS = ("PKG_IMAGE_PATH", "BOOT_ARCHIVE", "MEDIA_DIR", "TMP_DIR", "BUILD_DATA")
"""The areas: the image, the boot archive's contents, the media, scratch space, the whole workspace."""

_TOKEN = re.compile(r"(?<![$%])\{([A-Z][A-Z_]+)\}")


def has_token(text: str) -> bool:
    """Whether the text names an area of the workspace."""
    return any(token in TOKENS for token in _TOKEN.findall(text))


def check_references(source: Source) -> Iterator[Diagnostic]:
    """Unknown tokens and malformed paths anywhere in the tree."""
    for element in source.elements():
        for name, value in attributes_of(element).items():
            yield from _check(value, source.origin(element, name))
        for number, line in enumerate((element.text or "").split("\n")):
            if "{" in line:
                yield from _check(line, source.line_of_text(element, number))


def _check(text: str, origin: Origin | None) -> Iterator[Diagnostic]:
    for token in _TOKEN.findall(text):
        if token in TOKENS:
            continue
        meant = did_you_mean(token, TOKENS)
        known = f"Known are {listed((f'{{{name}}}' for name in TOKENS), 'and')}."
        if meant:
            yield error(origin, f"there is no token {{{token}}}", known, f"{{{meant}}}")
        else:
            yield warning(origin, f"{{{token}}} is no token and is left unchanged", known)
    for path in references(text):
        if not path.startswith("/"):
            yield warning(
                origin,
                f"%{{{path}}} is no path into the DOC",
                "A path begins with / (a child) or // (a descendant).",
                f"%{{//{path}}}",
            )
            continue
        try:
            parse_path(path)
        except PathError as bad:
            yield error(origin, bad.brief, bad.details, bad.resolution)
