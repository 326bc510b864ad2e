"""References in a manifest's strings, for a running checkpoint: areas, DOC values, captured files.

`{TOKEN}` names an area of the workspace and `%{path}` values of the DOC. A shell line gets them quoted for
their place in the line, so that blanks and quotes in a value stay part of it.
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.tokens import TOKENS
from dcd.platform.inside import make_directory, resolve
from statemachine.errors import CheckpointError

_REFERENCE = re.compile(r"%\{(?P<path>[^}]*)\}|(?<![$%])\{(?P<token>[A-Z][A-Z_]+)\}")
_BEGINS = re.compile(rf"\{{(?P<token>{'|'.join(TOKENS)})\}}")


def areas(context: Context) -> dict[str, Path]:
    """The areas by their tokens."""
    return {
        "PKG_IMAGE_PATH": context.pkg_image,
        "BOOT_ARCHIVE": context.boot_archive,
        "MEDIA_DIR": context.media,
        "TMP_DIR": context.tmp,
        "BUILD_DATA": context.root,
    }


def area_path(context: Context, text: str) -> Path:
    """The real path of a string of the manifest, beneath the area that it begins with, or else beneath the
    workspace. References are replaced first, links are followed as if the area were the root. Raises
    `CheckpointError` for a path that leaves its area, `NotFound` and `PathError` as `substituted`."""
    return resolve(*_in_area(context, text))


def area_directory(context: Context, text: str) -> Path:
    """The same for a directory, which is made if it does not exist."""
    return make_directory(*_in_area(context, text))


def _in_area(context: Context, text: str) -> tuple[Path, str]:
    """The area that a string of the manifest begins with, and the path in it."""
    begins = _BEGINS.match(text)
    area = areas(context)[begins["token"]] if begins else context.root
    below = substituted(text[begins.end() :] if begins else text, context.doc, {})
    if ".." in below.split("/") or "\0" in below or (begins and below and below[0] != "/"):
        raise CheckpointError(
            f"{text!r} is not a path in its area",
            f"it names {below!r} in {begins['token'] if begins else 'the workspace'}",
            "begin it with an area, such as {PKG_IMAGE_PATH}, and leave out `..`",
        )
    return area, below


def substituted(text: str, doc: DataObjectCache, tokens: Mapping[str, Path]) -> str:
    """The text with its references replaced by plain values. Tokens other than `tokens` stay unchanged.
    Raises `NotFound` and `PathError` for a `%{path}` that leads to nothing."""
    return _REFERENCE.sub(lambda reference: _value(reference, doc, tokens), text)


def shell_line(text: str, doc: DataObjectCache, tokens: Mapping[str, Path]) -> str:
    """A shell command with its references replaced; each value is quoted for its place: outside quotes, in
    double quotes or in single quotes. Raises as `substituted`."""
    line, quote, end = "", "", 0
    for reference in _REFERENCE.finditer(text):
        piece = text[end : reference.start()]
        line += piece
        quote = _quote_after(piece, quote)
        end = reference.end()
        value = _value(reference, doc, tokens)
        if value == reference.group():
            line += value
        elif quote == "'":
            line += value.replace("'", "'\\''")
        elif quote == '"':
            line += re.sub(r'([\\"$`])', r"\\\1", value)
        else:
            line += shlex.quote(value)
    return line + text[end:]


def captured_file(inputs: Mapping[str, Path], path: str) -> Path:
    """The captured file of the manifest's `path`. Raises `CheckpointError`."""
    if path in inputs:
        return inputs[path]
    raise CheckpointError(
        f"the file {path} was not captured with the build",
        f"the captured files are {', '.join(sorted(inputs)) or 'none'}",
        "submit the manifest again",
    )


def _value(reference: re.Match[str], doc: DataObjectCache, tokens: Mapping[str, Path]) -> str:
    if reference["path"] is not None:
        return doc.substitute(reference.group())
    return str(tokens.get(reference["token"], reference.group()))


def _quote_after(piece: str, quote: str) -> str:
    """The open quote after a piece of a shell line that began inside `quote` ("" for none)."""
    escaped = False
    for character in piece:
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
    return quote
