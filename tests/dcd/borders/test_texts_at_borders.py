"""Every text of a manifest reaches the program that it is for as it is, or is refused.

Each text of every element, and each text argument of every checkpoint, is given texts with quotes, ends of
lines, NUL, `;`, `${}`, `%{}`, a leading `-`, `..` and very long ones: as the value of a parameter, through
the check of a manifest. What is accepted is handed to the project's own writers of the languages that it
ends in, and compared with what the program that reads the language finds there. A new attribute or argument
without a form, or with a form that nothing listens for, fails.
"""

import functools
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from dcd.construction.arguments import BadArguments, match_arguments, parameters_of, type_of
from dcd.construction.checkpoint_types import registered
from dcd.construction.constructors import OWN, resolve
from dcd.manifest import forms
from dcd.manifest.check import check_structure
from dcd.manifest.data_object import DataObject, fields_of
from dcd.manifest.fields import Field
from dcd.manifest.labels import HOST_LABEL
from dcd.manifest.objects import BUILTIN, Parameter
from dcd.manifest.parameters import substitute_parameters
from dcd.manifest.registry import particles_of
from dcd.manifest.schema import classes_below
from dcd.manifest.source import LIMITS, read
from dcd.manifest.times import TIME
from dcd.manifest.values import SIZE, Form, choices, element_of, form_of, is_list, optional_of

Listener = Callable[[str, Path], str]
Listeners = Mapping[str, tuple[Listener, ...]]

ELSEWHERE: Mapping[str, str] = {
    "AREA_PATH": "a path that is resolved beneath its area; no program is given the text",
    "CAPABILITY": "looked up in a table",
    "CHAP_NAME": "disks of the host are not used on Linux",
    "CHAP_SECRET": "disks of the host are not used on Linux",
    "CHECKPOINT_NAME": "names of files of the daemon",
    "ANSWERS": "debconf reads them by its own rules; see test_deb_settings",
    "CLIENT_DIRECTORY": "the client packs it; the build knows the archive by its digest",
    "CLIENT_PATH": "the client opens it; the build knows the content by its digest",
    "DATASET": "no checkpoint makes pools",
    "DELIVERED": "a path that is resolved beneath MEDIA_DIR",
    "DEVICE_NAME": "looked up in /dev",
    "IMAGE_TAG": "a text in JSON, which skopeo reads in test_rootfs_oci",
    "LABEL": "a text in JSON, which skopeo reads in test_rootfs_oci",
    "PORT": "a text in JSON, which skopeo reads in test_rootfs_oci",
    "DISK_ID": "converted into a UUID",
    "ENTRY": "each kind of transfer has a form of its own; see `test_names_of_packages`",
    "DPKG_OPTION": "a line of dpkg's own configuration; see test_deb_settings",
    "GPT_TYPE": "converted into a UUID",
    "HOST_LABEL": "compared with the labels of hosts",
    "HOST_OR_ADDRESS": "disks of the host are not used on Linux",
    "IMAGE_DIRECTORY": "a path that is resolved beneath the image; no program is given the text",
    "PIN": "a line of apt's preferences; see test_deb_settings",
    "PINNED": "a line of apt's preferences; see test_deb_settings",
    "SSH_KEY": "a line of a file in the image; see test_configure_additions",
    "IDENTIFIER": "looked up in the manifest or the daemon's environment",
    "ISCSI_NAME": "disks of the host are not used on Linux",
    "LINES": "its lines are joined, then it is a title",
    "LOCALE": "looked up in the image's list of locales",
    "LOGICAL_UNIT": "disks of the host are not used on Linux",
    "LVM_NAME": "a word of LVM's metadata, which has no characters that need quotes there",
    "MAPPED": "a field of crypttab without blanks and backslashes, which have a meaning there",
    "MODE": "converted into a number",
    "NUMBER": "converted into a number",
    "OWNER": "looked up in the image's accounts",
    "PASSWORD": "hashed; see test_accounts",
    "PROFILE": "compared with the names that the user selects",
    "PROPERTY_VALUE": "no checkpoint makes pools",
    "SERIAL_CONSOLE": "taken apart into numbers and words of a list",
    "SERIAL_LINE": "taken apart into numbers and words of a list",
    "SIZE": "converted into a number",
    "TIME": "converted into a number",
    "TIME_ZONE": "looked up in the image's zones",
    "VOLUME_UUID": "converted into a UUID",
    "IPS_PACKAGE": "a value of a package's manifest, which has no characters that need quotes there",
    "MARKER": "the name of a file; no program is given the text",
    "WORD": "looked up in a table",
    "ZFS_MOUNTPOINT": "no checkpoint makes pools",
    "ZFS_NAME": "no checkpoint makes pools",
}
"""Forms of texts that end in no other language, and why not."""

FORMS = {
    form: name
    for name, form in {**vars(forms), "SIZE": SIZE, "TIME": TIME, "HOST_LABEL": HOST_LABEL}.items()
    if isinstance(form, Form)
}

HOSTILE = (
    *(
        "'",
        '"',
        "`id`",
        "$(id)",
        ";",
        "|",
        "&",
        "<x>",
        "\\",
        "#",
        ",",
        ":",
        "=",
        "*",
        "!",
        "(",
        "{",
        "}",
    ),
    *(
        "${x}",
        "%{//x}",
        "{TMP_DIR}",
        "-x",
        "--x=y",
        "-",
        "..",
        "../x",
        "/../x",
        "/x/..",
        "@@1",
        "?offset=1",
    ),
    *("\n", "\r", "\t", "\x00", "\x1b[2J", "\x7f", "\u2028", "\u202e", "\u00e9", "", " "),
    *("a b", "a\nb", "a\n[Match]", '"; X "', "'; X '", "x" * 100_000, "é" * 300),
)


@dataclass(frozen=True)
class Text:
    """A place of a manifest where a text stands. `final` returns what a build gets of the text, or None when
    it is refused."""

    name: str
    form: Form | None
    final: Callable[[str], str | None]

    def __str__(self) -> str:
        return self.name


def is_text(annotation: Any) -> bool:
    """Whether the annotation takes text that is no choice and no number."""
    plain, _ = optional_of(annotation)
    if is_list(plain):
        return is_text(element_of(plain))
    return not choices(plain) and plain not in (bool, int, float)


def texts_of_elements() -> Iterator[Text]:
    for cls in classes_below():
        for field in fields_of(cls):
            if is_text(field.annotation):
                read_by = functools.partial(final_of_element, cls, field)
                yield Text(f"{cls.TAG}.{field.tag}", field.form, read_by)


def final_of_element(cls: type[DataObject], field: Field, text: str) -> str | None:
    """The value of the field in a manifest where it is that of a parameter."""
    element = etree.Element(cls.TAG)
    if cls is Parameter:
        # Nothing is replaced in what declares a parameter.
        try:
            element.set(field.tag, text)
            return str(field.parse((element.get(field.tag) or "").strip()))
        except ValueError:
            return None
    match field.declared.kind:
        case "attribute":
            element.set(field.tag, "${given}")
        case "text":
            element.text = "${given}"
        case _:
            etree.SubElement(element, field.tag).text = "${given}"
    source = read(in_manifest(cls, element), "m.xml", LIMITS)
    if substitute_parameters(source, {"given": text}, LIMITS):
        return None
    place = [each for each in source.root.iter() if each.tag == cls.TAG][-1]
    place = place if field.declared.kind in ("attribute", "text") else place[0]
    raw = place.get(field.tag) if field.declared.kind == "attribute" else place.text
    try:
        value = field.parse((raw or "").strip())
    except ValueError:
        assert not (raw or "").strip() or any(
            f" <{place.tag}> is not " in found.message for found in check_structure(source, BUILTIN)
        ), "the check lets it pass"
        return None
    return str(value)


def in_manifest(cls: type[DataObject], element: Any) -> str:
    """A manifest with the element where it may stand; the rest is left out."""
    parents = {particle.of: outer for outer in classes_below() for particle in particles_of(outer)}
    while cls in parents:
        cls = parents[cls]
        outer = etree.Element(cls.TAG)
        outer.append(element)
        element = outer
    element.insert(0, etree.Element("parameter", name="given"))
    return etree.tostring(element, encoding="unicode")


def texts_of_checkpoints() -> Iterator[Text]:
    types, problems = registered()
    assert not problems
    for each in types:
        if each.mod_path.startswith(OWN.replace(".", "/")):
            factory = resolve(each.mod_path, each.checkpoint_class)
            for parameter in parameters_of(factory):
                annotation = type_of(parameter)
                if is_text(annotation):
                    several = is_list(annotation)
                    final = functools.partial(final_of_argument, factory, parameter.name, several)
                    name = f"{each.checkpoint_class}({parameter.name})"
                    yield Text(name, form_of(annotation), final)


def final_of_argument(factory: Any, name: str, several: bool, text: str) -> str | None:
    """What a checkpoint's constructor is given; the manifest's texts are without white space around them."""
    if final_of_element(BY_TAG["arg"], ARGUMENT, text) is None:
        return None
    given = text.strip()
    try:
        value = match_arguments(factory, [], {name: [given] if several else given}).values[name]
    except BadArguments as bad:
        if any(problem.argument == name for problem in bad.problems):
            return None
        assert bad.bound is None or name not in bad.bound.values
        value = [given] if several else given  # Another argument is missing.
    if several:
        (value,) = value
    # An empty text stands for an argument that is not given.
    return "" if value is None else str(value)


BY_TAG = {cls.TAG: cls for cls in classes_below()}
ARGUMENT = next(field for field in fields_of(BY_TAG["arg"]) if field.name == "text")
TEXTS = [*texts_of_elements(), *texts_of_checkpoints()]


def given_texts(form: Form) -> Iterator[str]:
    """Hostile texts alone, around and inside what is right."""
    right = re.split(r",| or ", form.example)[0]
    for piece in HOSTILE:
        yield from dict.fromkeys(
            (
                piece,
                right + piece,
                piece + right,
                right[:1] + piece + right[1:],
                right + " " + piece,
            )
        )


@functools.cache
def received(listener: Listener, text: str) -> str:
    with tempfile.TemporaryDirectory(prefix="dcd-border-") as directory:
        return listener(text, Path(directory))


def test_there_is_a_form_for_every_text_and_a_listener_or_a_reason_for_every_form(
    listeners: Listeners,
) -> None:
    assert len(TEXTS) > 120
    without = [text.name for text in TEXTS if text.form is None]
    assert without == []
    for text in TEXTS:
        assert text.form is not None
        if not text.form.why:
            name = FORMS[text.form]
            assert (name in listeners) != (name in ELSEWHERE), name
    used = {FORMS[text.form] for text in TEXTS if text.form is not None and not text.form.why}
    assert used == listeners.keys() | ELSEWHERE.keys()


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS, ids=str)
def test_a_text_is_received_as_it_is_or_refused(text: Text, listeners: Listeners) -> None:
    assert text.form is not None
    accepted = 0
    for given in given_texts(text.form):
        final = text.final(given)
        if final is None:
            continue
        accepted += 1
        if not final:
            continue  # It stands for a text that is not given.
        assert "\x00" not in final
        if text.form.why:
            assert final == given.strip()
            continue
        text.form.check(final)  # Nothing passes without it.
        assert final == given.strip()
        for listener in listeners.get(FORMS[text.form], ()):
            assert received(listener, final) == final, listener.__name__
    assert accepted, "nothing at all is accepted"


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS, ids=str)
def test_no_text_brings_a_nul_or_is_without_end(text: Text) -> None:
    assert text.final("a\x00b") is None
    assert text.final("x" * (LIMITS.max_bytes + 1)) is None or text.form.why  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name",
    ["-y", "--option", "hello-", "hello world", "hello;", "a,b", "../x.deb", "/x.deb", "?x", "~nx"],
)
def test_names_of_packages_are_no_options_and_no_patterns(name: str) -> None:
    from dcd.checkpoints.transfer.deb import TransferDEB
    from dcd.manifest.doc import DataObjectCache

    doc = DataObjectCache()
    software = etree.fromstring(
        '<distro name="x"><software name="t" type="DEB"><software_data><name/></software_data></software>'
        '<execution><checkpoint name="t" mod_path="x" checkpoint_class="y"/></execution></distro>'
    )
    next(software.iter("software_data"))[0].text = name
    doc.volatile.insert_children(BUILTIN.read(software))
    found = [each.message for each in TransferDEB("t").check(doc) if each.severity == "error"]
    assert f"{name!r} is not a Debian package" in found
