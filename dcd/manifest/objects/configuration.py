"""Data objects of `configuration`: profiles, files, users and networks that a checkpoint applies."""

from typing import Literal

from dcd.manifest import forms
from dcd.manifest.data_object import DataObject, attribute, many, optional, text

LARGEST_ID = 2**32 - 2
"""Of a user or group; for chown(2) the next number means \"none\"."""


class Validation(DataObject, tag="validation"):
    """A command that checks the source when the manifest is checked; its last argument is a copy of the
    source. `svccfg apply -n`, `svccfg validate` and `xmllint --noout` are always allowed; any other command
    needs the right `host_code`. It runs without privileges and without network. A file of the
    image is not checked."""

    path: str | None = attribute("The command.", default=None, form=forms.VALIDATION_COMMAND)
    args: str | None = attribute(
        "Its arguments, separated by spaces.", default=None, form=forms.VALIDATION_ARGUMENTS
    )
    on_error: Literal["stop", "continue"] = attribute(
        "The effect of a failed check.", default="stop"
    )


class Password(DataObject, tag="password"):
    """A password: as text, hashed, locked, or by reference to a file or variable of the daemon."""

    hashed: bool = attribute("The text is a crypt(5) hash.", default=False)
    SECRETS = ("text",)

    locked: bool = attribute("No password opens the account.", default=False)
    file: str | None = attribute(
        "A file of the daemon's host with the password, which is read when it is needed and never stored.",
        default=None,
        form=forms.HOST_PATH,
    )
    env: str | None = attribute(
        "A variable of the daemon's environment with the password, which is never stored.",
        default=None,
        form=forms.IDENTIFIER,
    )
    text: str = text("The password or hash itself.", default="", form=forms.PASSWORD)


class SshKey(DataObject, tag="ssh_key"):
    """A public key that opens the account through ssh: as text, or a file with one on each line. It is added
    to the user's authorized_keys."""

    source: str | None = attribute(
        "The file with keys. A relative path begins at the manifest's directory.",
        default=None,
        form=forms.CLIENT_PATH,
    )
    text: str = text("The key, as in authorized_keys.", default="", form=forms.SSH_KEY)


class Sudo(DataObject, tag="sudo"):
    """The user may do everything through sudo."""

    nopasswd: bool = attribute("Without a password.", default=False)


class User(DataObject, tag="user", content=(optional(Password), many(SshKey), optional(Sudo))):
    """An account in the image: created, or, when it exists, changed."""

    name: str = attribute("The account's name.", form=forms.ACCOUNT)
    full_name: str | None = attribute("The person's name.", default=None, form=forms.FULL_NAME)
    uid: int | None = attribute("The user id.", default=None, minimum=0, maximum=LARGEST_ID)
    groups: str = attribute(
        "Its further groups, separated by spaces or commas.", default="", form=forms.GROUPS
    )
    home: str | None = attribute("Its home directory.", default=None, form=forms.ACCOUNT_PATH)
    shell: str | None = attribute("Its login shell.", default=None, form=forms.ACCOUNT_PATH)


class Interface(DataObject, tag="interface"):
    """A network interface of the image."""

    match: str = attribute(
        "The interface's name, or a pattern such as `en*`.", form=forms.INTERFACE
    )
    dhcp: bool = attribute("Configure it by DHCP.", default=True)
    address: str | None = attribute(
        "Addresses with prefix length, separated by spaces.",
        default=None,
        form=forms.ADDRESSES_WITH_PREFIX,
    )
    gateway: str | None = attribute("The default router.", default=None, form=forms.ADDRESSES)
    dns: str | None = attribute(
        "Name servers, separated by spaces.", default=None, form=forms.ADDRESSES
    )
    domains: str | None = attribute(
        "Search domains, separated by spaces.", default=None, form=forms.DOMAINS
    )


class Tree(DataObject, tag="tree"):
    """A directory to add with all it contains: modes, links, hard links and times. Links stay as they are:
    their targets are paths of the image. Directories that the image has keep their mode and owner."""

    source: str = attribute(
        "The directory. A relative path begins at the manifest's directory.",
        form=forms.CLIENT_DIRECTORY,
    )
    dest: str = attribute("Its path in the image.", form=forms.IMAGE_DIRECTORY)
    owner: str = attribute(
        "Owner and group of everything in it, by names of the image.",
        default="root:root",
        form=forms.OWNER,
    )
    mode: str | None = attribute(
        "The mode of the files, by default their own; directories may be entered by those who may read them.",
        default=None,
        form=forms.MODE,
    )


class Unit(DataObject, tag="unit"):
    """A unit of systemd: a file to add to /etc/systemd/system, or one that the image has."""

    name: str = attribute("Its name; by default that of the file.", default="", form=forms.UNIT)
    source: str | None = attribute(
        "The file. A relative path begins at the manifest's directory.",
        default=None,
        form=forms.CLIENT_PATH,
    )
    enable: bool = attribute("Start it with the system.", default=True)


class Script(DataObject, tag="script"):
    """A script that runs in the image when everything else of the configuration is there, before its units
    are enabled. It has no network."""

    source: str | None = attribute(
        "The file. A relative path begins at the manifest's directory.",
        default=None,
        form=forms.CLIENT_PATH,
    )
    text: str = text(
        "The script itself, for /bin/sh or its `#!` line.", default="", form=forms.SCRIPT
    )


class Configuration(
    DataObject,
    tag="configuration",
    content=(
        optional(Validation),
        many(User),
        many(Interface),
        many(Tree),
        many(Unit),
        many(Script),
    ),
):
    """A profile or file, users, interfaces, directories, units or scripts that the checkpoint of the same
    name applies."""

    name: str = attribute(
        "The checkpoint's name. Without it, the only checkpoint that configures the image.",
        default="",
        form=forms.LINE,
    )
    type: Literal["network", "sysconf", "user", "zone"] | None = attribute(
        "The kind of configuration.", default=None
    )
    source: str | None = attribute(
        "The file to apply or add. A relative path begins at the manifest's directory.",
        default=None,
        form=forms.CLIENT_PATH,
    )
    dest: str | None = attribute("Its path in the image.", default=None, form=forms.IMAGE_PATH)
    mode: str | None = attribute("The file's mode in the image.", default=None, form=forms.MODE)
    owner: str | None = attribute(
        "The file's owner and group in the image.", default=None, form=forms.OWNER
    )
