"""Older forms of elements, translated into those of the grammar before a manifest is checked.

Only forms with one meaning are accepted: `software_data type=` and `<zpool><dataset>` are in examples of the
original's manual page, `<sigpolicy>` is in manifests in use, `<grub_mods>` was the first form of
`<boot_mods>`, `<target_device>` is in the original's tests. Translated elements keep their places. Changes
the tree.
"""

from collections.abc import Iterator

from dcd.manifest.data_object import Element
from dcd.manifest.diagnostics import Diagnostic, warning
from dcd.manifest.grub_lines import kernel_arguments
from dcd.manifest.source import Source


def translate(source: Source) -> Iterator[Diagnostic]:
    """Translate the tree, with warnings about contradictions."""
    for software in source.root.iter("software"):
        kind = software.get("type", "IPS").strip()
        for data in software.findall("software_data"):
            yield from _type_of_data(source, data, kind)
    for dataset in list(source.root.iter("dataset")):
        _unwrap(dataset, "zpool")
    for device in list(source.root.iter("target_device")):
        _unwrap(device, "target")
    for menu in list(source.root.iter("grub_mods")):
        yield from _menu(source, menu)
    for policy in list(source.root.iter("sigpolicy")):
        yield from _policy(source, policy)


def _type_of_data(source: Source, data: Element, kind: str) -> Iterator[Diagnostic]:
    given = data.get("type", kind)
    data.attrib.pop("type", "")
    if given.strip() != kind:
        yield warning(
            source.origin(data, "type"),
            f"this list has type={given!r}, but the type of its <software>, {kind!r}, counts",
            "All lists of one <software> are transferred by one checkpoint.",
            "leave type out of <software_data>",
        )


def _unwrap(wrapper: Element, around: str) -> None:
    """Put what the wrapper holds in its place, if it is in the element `around`: the file systems of
    `<zpool><dataset>` are the pool's."""
    parent = wrapper.getparent()
    if parent is None or parent.tag != around or wrapper.attrib:
        return
    at = parent.index(wrapper)
    parent.remove(wrapper)
    for offset, inner in enumerate(list(wrapper)):
        parent.insert(at + offset, inner)


def _menu(source: Source, menu: Element) -> Iterator[Diagnostic]:
    """`<grub_mods>` with `<grub_entry position="N">` and lines of GRUB is `<boot_mods>`: an entry at position
    0 is at the start, others are at the end."""
    menu.tag = "boot_mods"
    chosen = menu.attrib.pop("default_entry", "")
    if "min_mem" in menu.attrib:
        yield warning(
            source.origin(menu, "min_mem"),
            "min_mem has no effect here",
            "GRUB of that time compared it with the memory of the machine; no loader does so now.",
            "leave it out",
        )
        menu.attrib.pop("min_mem")
    for entry in menu.findall("grub_entry"):
        entry.tag = "boot_entry"
        position = entry.attrib.pop("position", "")
        if position == "0":
            entry.set("insert_at", "start")
        if position and position == chosen:
            entry.set("default_entry", "true")
        for line in entry.findall("line"):
            arguments = kernel_arguments(line.text or "")
            if arguments is None:
                yield warning(
                    source.origin(line),
                    f"the line {(line.text or '').strip()!r} of the entry has no effect",
                    "Entries start the image's own kernel with its boot archive.",
                    "give arguments of the kernel: <kernel_args>",
                )
            if arguments:
                line.tag, line.text = "kernel_args", arguments
            else:
                entry.remove(line)


def _policy(source: Source, policy: Element) -> Iterator[Diagnostic]:
    """`<sigpolicy name="..."/>` is the publisher's attribute `signature_policy`."""
    publisher = policy.getparent()
    if publisher is None or publisher.tag != "publisher" or set(policy.attrib) != {"name"}:
        return
    name = policy.get("name", "")
    if publisher.get("signature_policy", name) != name:
        yield warning(
            source.origin(policy, "name"),
            f"signature_policy of the publisher is {publisher.get('signature_policy')!r}, which counts",
            "",
            "keep one of them",
        )
    elif "signature_policy" not in publisher.attrib:
        publisher.set("signature_policy", name)
        place, origin = source.places.get(publisher), source.origin(policy, "name")
        if place is not None and origin is not None:
            place.attributes["signature_policy"] = origin
    publisher.remove(policy)
