"""`CloudInitSeed`: the data that cloud-init's source NoCloud reads when a machine first starts.

It is an ISO with the volume id `cidata` to attach to the machine, or a directory in the image itself. Files
of the manifest's side are taken as they are; what is not given derives from the `configuration` of the
checkpoint's name: host name, users with keys, rights and hashed passwords, and the network as netplan's
version 2. They are written as JSON, which is YAML too. The id of the instance derives from the content, so
changed data is applied again. Results: media/NAME-seed.iso, delivered; or /var/lib/cloud/seed/nocloud of the
image.
Source: cloud-init's documentation, "NoCloud", "Module reference", and "Networking config Version 2".
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from dcd.checkpoints import products
from dcd.checkpoints.areas import captured_file
from dcd.checkpoints.image.accounts import check_user
from dcd.checkpoints.image.logins import key_lines
from dcd.checkpoints.image.passwords import password_hash
from dcd.checkpoints.interface import Checkpoint, Context, Needs
from dcd.checkpoints.media.deliver import deliver_file, media_name
from dcd.checkpoints.mkisofs import MKISOFS
from dcd.checkpoints.times import source_date_epoch
from dcd.manifest.data_object import DataObject
from dcd.manifest.diagnostics import Diagnostic, warning
from dcd.manifest.doc import DataObjectCache, configurations_for, distro
from dcd.manifest.forms import CLIENT_PATH, HOST_NAME
from dcd.manifest.objects.configuration import Interface, Password, SshKey, Sudo, User
from dcd.manifest.secrets import references
from dcd.manifest.values import InputPath
from dcd.platform.inside import make_directory, new_file, write

_IN_IMAGE = "var/lib/cloud/seed/nocloud"
_VOLUME = "cidata"
_HEADERS = (
    *(b"#cloud-config", b"#!", b"#include", b"#cloud-boothook", b"## template:", b"#part-handler"),
    *(b"Content-Type:", b"MIME-Version:"),
)
"""The beginnings of user data that cloud-init knows."""

Json = dict[str, Any]
Found = TypeVar("Found", bound=DataObject)


@dataclass(frozen=True)
class CloudInitSeed(Checkpoint):
    """Make the data for cloud-init's NoCloud.

    The `configuration` of the checkpoint's name may hold users and interfaces; other configuration goes into
    the image (`DebianPrePkgImgMod`).
    """

    DESCRIPTION = "Make the seed for cloud-init"
    EXPECTED_SECONDS = 1.0
    VERSION = 1
    PROVIDES = ()
    NAMED = ("configuration",)
    READS = ("//distro.name", "//distro.add_timestamp")
    TOOLS = ("xorriso",)

    place: Literal["iso", "image"] = "iso"
    """An ISO with the volume id cidata, or a directory of the image."""

    user_data: Annotated[InputPath, CLIENT_PATH] | None = None
    """A file with the user data. Default: made from the configuration."""

    meta_data: Annotated[InputPath, CLIENT_PATH] | None = None
    """A file with the metadata. Default: an id of the instance, and the host name."""

    network_config: Annotated[InputPath, CLIENT_PATH] | None = None
    """A file with the network configuration. Default: made from the interfaces, if there are any."""

    hostname: Annotated[str, HOST_NAME] | None = None
    """The name of the system. Default: the distribution's, where that can be one."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(
            tools=self.TOOLS if self.place == "iso" else (),
            secrets=references(
                password
                for configuration in configurations_for(doc, self.name)
                for password in configuration.get_descendants(class_type=Password)
            ),
        )

    def requires(self, doc: DataObjectCache) -> Iterator[tuple[str, ...]]:
        if self.place == "image":
            yield (products.IMAGE,)

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        for configuration in configurations_for(doc, self.name):
            for other in configuration.get_children():
                if not isinstance(other, User | Interface):
                    yield self.fault(
                        doc,
                        None,
                        f"a seed for cloud-init takes no <{getattr(other, 'TAG', '')}>",
                        "It takes users and interfaces; other parts go into the image.",
                        "give it to a checkpoint DebianPrePkgImgMod, or write a file user_data",
                    )
        for user in _all(doc, self.name, User):
            yield from check_user(user)
        for argument, given, cls in (
            ("user_data", self.user_data, User),
            ("network_config", self.network_config, Interface),
        ):
            if given is not None and _all(doc, self.name, cls):
                yield warning(
                    self.argument_place(doc, argument),
                    f"{self.name}: {argument} is a file, and the configuration has <{cls.TAG}> too",
                    "The file is taken, and the elements have no effect.",
                    "leave one of them out",
                )

    def execute(self, context: Context) -> None:
        files = self._files(context)
        if self.place == "image":
            for name, content in files.items():
                write(context.pkg_image, f"{_IN_IMAGE}/{name}", content, mode=0o600)
            return
        tree = make_directory(context.tmp, "seed")
        for name, content in files.items():
            write(tree, name, content)
        epoch = source_date_epoch(context, 0)
        result = new_file(context.media, f"{media_name(context.doc, epoch)}-seed.iso")
        context.run(
            [
                *(*MKISOFS, "-r", "-J", "-V", _VOLUME),
                *("-o", result, "--set_all_file_dates", f"={epoch}", tree),
            ],
            env={"SOURCE_DATE_EPOCH": str(epoch)},
        )
        deliver_file(context, result, "iso")

    def _files(self, context: Context) -> dict[str, bytes]:
        """The files of the seed by their names."""
        name = self.hostname or _host_name(distro(context.doc).name)
        files: dict[str, bytes] = {}
        if self.user_data is not None:
            files["user-data"] = captured_file(context.inputs, self.user_data).read_bytes()
            if not files["user-data"].startswith(_HEADERS):
                context.warn(
                    f"cloud-init ignores {self.user_data}: it begins with none of the headers of user data, "
                    "such as #cloud-config"
                )
        else:
            files["user-data"] = b"#cloud-config\n" + _encoded(self._user_data(context, name))
        interfaces = _all(context.doc, self.name, Interface)
        if self.network_config is not None:
            captured = captured_file(context.inputs, self.network_config)
            files["network-config"] = captured.read_bytes()
        elif interfaces:
            files["network-config"] = _encoded(_network(interfaces))
        if self.meta_data is not None:
            files["meta-data"] = captured_file(context.inputs, self.meta_data).read_bytes()
        else:
            identity = hashlib.sha256(b"\0".join(files[key] for key in sorted(files))).hexdigest()
            files["meta-data"] = _encoded(
                {"instance-id": f"{name}-{identity[:16]}", "local-hostname": name}
            )
        return files

    def _user_data(self, context: Context, name: str) -> Json:
        epoch = source_date_epoch(context, 0)
        users = _all(context.doc, self.name, User)
        return {
            "hostname": name,
            "users": [_user(user, context, epoch) for user in users] or ["default"],
            "ssh_pwauth": any(
                not password.locked
                for user in users
                for password in user.get_children(class_type=Password)
            ),
        }


def _all(doc: DataObjectCache, name: str, cls: type[Found]) -> list[Found]:
    return [
        found
        for configuration in configurations_for(doc, name)
        for found in configuration.get_children(class_type=cls)
    ]


def _host_name(name: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in name.lower()).strip("-") or "cloud"


def _encoded(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _user(user: User, context: Context, epoch: int) -> Json:
    """An entry of the module users_groups."""
    entry: Json = {"name": user.name}
    groups = user.groups.replace(",", " ").split()
    for key, value in (
        ("gecos", user.full_name),
        ("uid", user.uid),
        ("groups", ", ".join(groups)),
        ("homedir", user.home),
        ("shell", user.shell),
    ):
        if value not in (None, ""):
            entry[key] = value
    keys = [
        line
        for key in user.get_children(class_type=SshKey)
        for line in key_lines(key, context.inputs)
    ]
    if keys:
        entry["ssh_authorized_keys"] = keys
    for sudo in user.get_children(class_type=Sudo):
        entry["sudo"] = f"ALL=(ALL:ALL) {'NOPASSWD:' if sudo.nopasswd else ''}ALL"
    password = user.get_first_child(class_type=Password)
    entry["lock_passwd"] = password is None or password.locked
    if password is not None and not password.locked:
        entry["passwd"] = password_hash(user, password, epoch)
    return entry


def _network(interfaces: Sequence[Interface]) -> Json:
    ethernets: Json = {}
    for number, one in enumerate(interfaces):
        # Only netplan looks at `match`; cloud-init's other writers take the key for the interface's name.
        pattern = any(sign in one.match for sign in "*?[ ")
        matched = {"match": {"name": one.match}} if pattern else {}
        entry: Json = {**matched, "dhcp4": one.dhcp, "dhcp6": one.dhcp}
        if one.address:
            entry["addresses"] = one.address.split()
        for gateway in (one.gateway or "").split():
            entry["gateway6" if ":" in gateway else "gateway4"] = gateway
        nameservers = {
            "addresses": (one.dns or "").split(),
            "search": (one.domains or "").split(),
        }
        if any(nameservers.values()):
            entry["nameservers"] = nameservers
        ethernets[f"id{number}" if pattern else one.match] = entry
    return {"version": 2, "ethernets": ethernets}
