"""Checks beyond the grammar: the parts of a manifest must fit together.

Software and configurations need a checkpoint of their name, names of checkpoints are unique, lists are not
empty, the pools and vdevs of disks exist. Each check is a generator of diagnostics over the tree. Pure.
"""

from collections.abc import Hashable, Iterable, Iterator
from fnmatch import fnmatchcase

from dcd.manifest.data_object import Element, attributes_of
from dcd.manifest.diagnostics import Diagnostic, did_you_mean, error, hint, listed, warning
from dcd.manifest.source import Source, repeated


def cross_check(source: Source) -> Iterator[Diagnostic]:
    """Yield every misfit."""
    for check in (
        _checkpoint_names,
        _stop_on_error,
        _software_names,
        _debian_only,
        _package_lists,
        _places_of_sources,
        _repositories,
        _boot_entries,
        _configurations,
        _accounts,
        _passwords,
        _interfaces,
        _matches,
        _devices,
        _iscsi,
        _signing,
    ):
        yield from check(source)


def _repeats(
    source: Source,
    named: Iterable[tuple[Hashable | None, Element]],
    attribute: str | None,
    message: str,
    rule: str = "",
    suggestion: str = "keep one of them",
) -> Iterator[Diagnostic]:
    """An error at the attribute of each element whose key an earlier one has; in the texts, `{NAME}` is
    an attribute of the element."""
    for element, first in repeated(named):
        given = {"name": "", **attributes_of(element)}
        yield error(
            source.origin(element, attribute),
            message.format(**given),
            f"The first is at {source.origin(first)}. {rule}".strip(),
            suggestion.format(**given),
        )


def _checkpoint_names(source: Source) -> Iterator[Diagnostic]:
    yield from _repeats(
        source,
        ((each.get("name"), each) for each in source.root.iter("checkpoint")),
        "name",
        "there are two checkpoints named {name!r}",
        "Names are unique in a manifest.",
        'name="{name}-2"',
    )
    if source.root.find("distro/execution") is None:
        return  # Its absence is reported.
    checkpoints = dict.fromkeys(found.get("name", "") for found in source.root.iter("checkpoint"))
    for element in source.root.iter("software", "configuration"):
        name = element.get("name")
        if name is not None and name not in checkpoints:
            meant = did_you_mean(name, checkpoints)
            yield error(
                source.origin(element, "name"),
                f"<{element.tag}> is for checkpoint {name!r}, which does not exist{hint(meant)}",
                f"The checkpoints are {listed(checkpoints, 'and') or 'none'}.",
                f'name="{meant}"' if meant else f'<checkpoint name="{name}" .../>',
            )


def _stop_on_error(source: Source) -> Iterator[Diagnostic]:
    for execution in source.root.iter("execution"):
        if execution.get("stop_on_error", "true").strip() == "false":
            yield warning(
                source.origin(execution, "stop_on_error"),
                "a build always stops at the first checkpoint that fails",
                "A layer is only made on top of a completed one.",
                'stop_on_error="true"',
            )


def _software_names(source: Source) -> Iterator[Diagnostic]:
    for software in source.root.iter("software"):
        if software.get("name") is None:
            yield warning(
                source.origin(software),
                "this software has no name, so that no checkpoint transfers it",
                "The checkpoint of the same name transfers it.",
                '<software name="CHECKPOINT">',
            )
    yield from _repeats(
        source,
        ((each.get("name"), each) for each in source.root.iter("software")),
        "name",
        "checkpoint {name!r} has software twice",
        suggestion="put all of it into one <software>, or give the other a checkpoint of its own",
    )


def _debian_only(source: Source) -> Iterator[Diagnostic]:
    for software in source.root.iter("software"):
        kind = software.get("type", "IPS").strip()
        for element in software.iterchildren("pin", "dpkg_option", "debconf"):
            if kind != "DEB":
                yield error(
                    source.origin(element),
                    f"<{element.tag}> is for Debian packages, and this software is of type {kind}",
                    "",
                    'type="DEB", or remove it',
                )


def _package_lists(source: Source) -> Iterator[Diagnostic]:
    for software in source.root.iter("software"):
        kind = software.get("type", "IPS").strip()
        lists = software.findall("software_data")
        for data in lists:
            if not len(data):
                yield error(
                    source.origin(data),
                    "this list is empty",
                    "A <software_data> lists packages or files.",
                    "list something in it, each in a <name>, or remove it",
                )
            for item in data:
                if not (item.text or "").strip():
                    yield error(source.origin(item), f"<{item.tag}> is empty", "", "remove it")
        image = software.find("destination/image")
        created = image is None or image.get("action", "create").strip() == "create"
        # Who names a variant has chosen what is in it: a root file system may need no more.
        chosen = kind == "DEB" and image is not None and "variant" in image.attrib
        if kind in ("IPS", "DEB") and created and not lists and not chosen:
            yield (error if kind == "IPS" else warning)(
                source.origin(software),
                f"no packages are listed for {software.get('name', 'this software')!r}",
                "An image of no packages is empty."
                if kind == "IPS"
                else "Only what the variant brings is in the image; that has no kernel.",
                "add a <software_data> with a <name> for each package",
            )


def _places_of_sources(source: Source) -> Iterator[Diagnostic]:
    """All publishers and repositories are used, but only one directory."""
    named = (
        (software, place)
        for software in source.root.iter("software")
        for place in software.findall("source/dir")
    )
    yield from _repeats(
        source,
        named,
        None,
        "this software already has a source directory",
        "Only one is transferred.",
        "keep one of them, or give the other a <software> and a checkpoint of its own",
    )


def _repositories(source: Source) -> Iterator[Diagnostic]:
    for repository in source.root.iter("repository"):
        if repository.get("uri") and not repository.get("suite"):
            yield error(
                source.origin(repository, "uri"),
                "this repository has a uri but no suite",
                "The suite selects the packages.",
                f'<repository uri="{repository.get("uri")}" suite="bookworm"/>',
            )


def _boot_entries(source: Source) -> Iterator[Diagnostic]:
    for menu in source.root.iter("boot_mods"):
        defaults = [
            e for e in menu.iter("boot_entry") if e.get("default_entry", "").strip() == "true"
        ]
        for entry in defaults[:-1]:
            yield warning(
                source.origin(entry, "default_entry"),
                "another entry after this one is the default",
                f"The last default entry counts: {source.origin(defaults[-1])}.",
                'default_entry="false"',
            )


def _configurations(source: Source) -> Iterator[Diagnostic]:
    for configuration in source.root.iter("configuration"):
        content = [inner for inner in configuration if inner.tag != "validation"]
        if not configuration.get("source") and not content:
            yield error(
                source.origin(configuration),
                "this configuration configures nothing",
                "It needs a source (a file), users or interfaces.",
                '<configuration name="CHECKPOINT" source="FILE"/>',
            )
    yield from _repeats(
        source,
        (
            ((each.get("name", ""), each.get("dest")), each)
            for each in source.root.iter("configuration")
            if each.get("dest")
        ),
        "dest",
        "two files have the dest {dest}",
        suggestion="keep one of them, or give the other another dest",
    )


def _accounts(source: Source) -> Iterator[Diagnostic]:
    users = [
        (configuration.get("name", ""), user)
        for configuration in source.root.iter("configuration")
        for user in configuration.iter("user")
    ]
    named = (((of, user.get("name", "")), user) for of, user in users)
    yield from _repeats(source, named, "name", "there are two users named {name!r}")
    # Two accounts with one uid are one account with two names.
    numbered = (((of, user.get("uid")), user) for of, user in users if user.get("uid"))
    for user, first in repeated(numbered):
        if user.get("name") != first.get("name"):
            yield error(
                source.origin(user, "uid"),
                f"the uid {user.get('uid')} already belongs to {first.get('name')!r}",
                f"That user is at {source.origin(first)}.",
                "give each user a number of its own, or leave uid out",
            )


def _passwords(source: Source) -> Iterator[Diagnostic]:
    for password in source.root.iter("password"):
        ways = [name for name in ("file", "env") if password.get(name)]
        ways += ["locked"] if password.get("locked", "").strip() == "true" else []
        ways += ["text"] if (password.text or "").strip() else []
        if len(ways) != 1:
            yield error(
                source.origin(password),
                f"this password is given by {listed(ways, 'and')}"
                if ways
                else "this password is empty",
                "A password is given by text, file or env, or is locked.",
                '<password locked="true"/>',
            )


def _interfaces(source: Source) -> Iterator[Diagnostic]:
    for interface in source.root.iter("interface"):
        if interface.get("dhcp", "true").strip() == "false" and not interface.get("address"):
            yield error(
                source.origin(interface),
                "this interface has neither DHCP nor an address",
                "",
                f'<interface match="{interface.get("match", "en*")}" dhcp="false" address="192.0.2.7/24"/>',
            )


def _matches(source: Source) -> Iterator[Diagnostic]:
    """Of two elements that match an interface the first counts, so a later one must match others."""
    earlier: dict[str, list[tuple[str, Element]]] = {}
    for configuration in source.root.iter("configuration"):
        known = earlier.setdefault(configuration.get("name", ""), [])
        for interface in configuration.iter("interface"):
            patterns = interface.get("match", "").split()
            for pattern in patterns:
                first = next((other for has, other in known if _covers(has, pattern)), None)
                if first is not None:
                    yield error(
                        source.origin(interface, "match"),
                        f"{first.get('match', '')!r} already matches the interfaces {pattern!r}",
                        f"That <interface> is at {source.origin(first)}. The first that matches counts.",
                        "put the special pattern before the general one, or keep one of them",
                    )
            known += [(pattern, interface) for pattern in patterns]


def _covers(pattern: str, other: str) -> bool:
    """Whether all names that `other` matches match `pattern`. Source: glob(7), `*` and `?`."""
    return all(
        fnmatchcase(other.replace("*", some).replace("?", "\0"), pattern)
        for some in ("", "\0", "\0\0", "\0" * len(pattern))
    )


def _devices(source: Source) -> Iterator[Diagnostic]:
    for target in source.root.iter("target"):
        pools = {
            pool.get("name", ""): dict.fromkeys(vdev.get("name", "") for vdev in pool.iter("vdev"))
            for pool in target.iter("zpool")
        }
        everywhere = dict.fromkeys(vdev for vdevs in pools.values() for vdev in vdevs)
        for device in target.iter("disk", "gpt_partition", "partition", "slice"):
            pool, vdev = device.get("in_zpool"), device.get("in_vdev")
            if pool is not None and pool not in pools:
                yield _unknown_device(source, device, "in_zpool", "zpool", pool, list(pools))
            vdevs = everywhere if pool is None else pools.get(pool)
            if vdev is not None and vdevs is not None and vdev not in vdevs:
                yield _unknown_device(source, device, "in_vdev", "vdev", vdev, list(vdevs))
            action = device.get("action", "create").strip()
            if (
                device.tag == "partition"
                and not device.get("name")
                and action != "use_existing_solaris2"
            ):
                yield error(
                    source.origin(device),
                    "this partition has no number",
                    "Only action use_existing_solaris2 needs none.",
                    '<partition name="1">',
                )


def _unknown_device(
    source: Source, device: Element, attribute: str, kind: str, name: str, known: list[str]
) -> Diagnostic:
    meant = did_you_mean(name, known)
    return error(
        source.origin(device, attribute),
        f"there is no {kind} {name!r} in this target{hint(meant)}",
        f"It has {listed(known, 'and') or 'none'}.",
        f'{attribute}="{meant}"' if meant else f'<{kind} name="{name}"/>',
    )


def _iscsi(source: Source) -> Iterator[Diagnostic]:
    for disk in source.root.iter("iscsi"):
        given = {name for name in attributes_of(disk) if name != "source"}
        if disk.get("source", "manifest").strip() == "dhcp":
            if given:
                yield error(
                    source.origin(disk),
                    f'with source="dhcp", {listed(sorted(map(str, given)), "and")} cannot be given',
                    "DHCP supplies all of it.",
                    '<iscsi source="dhcp"/>',
                )
        elif missing := [name for name in ("target_lun", "target_ip") if name not in given]:
            yield error(
                source.origin(disk),
                f"this iSCSI disk needs {listed(missing, 'and')}",
                'With source="manifest", the manifest has the address and unit of the target.',
                '<iscsi target_ip="192.0.2.1" target_lun="0"/>',
            )
        ways = [
            name
            for name in ("chap_password", "chap_password_file", "chap_password_env")
            if disk.get(name) is not None
        ]
        if len(ways) > 1:
            yield error(
                source.origin(disk, ways[1]),
                f"the CHAP secret is given by {listed(ways, 'and')}",
                "One of these is enough.",
                f"keep {ways[-1]}",
            )
        elif ways == ["chap_password"]:
            # Without the value: diagnostics appear in logs and on screens.
            yield warning(
                source.origin(disk, "chap_password"),
                "the CHAP secret is in the manifest, and stored in the event log with it",
                "Everybody who may read the build or a backup can read it.",
                "leave it out: nothing reads it",
            )


def _signing(source: Source) -> Iterator[Diagnostic]:
    example = '<signing key="/etc/dcd/secrets/db.key" certificate="db.crt"/>'
    for params in source.root.iter("img_params"):
        signing = params.find("signing")
        wanted = params.get("secure_boot", "").strip() == "keys"
        if wanted and signing is None:
            yield error(
                source.origin(params, "secure_boot"),
                "there is no key to sign with",
                'secure_boot="keys" signs with a key of yours.',
                example,
            )
        elif signing is not None and not wanted:
            yield warning(
                source.origin(signing),
                "this key signs nothing",
                'Only secure_boot="keys" signs with it.',
                '<img_params secure_boot="keys">',
            )
