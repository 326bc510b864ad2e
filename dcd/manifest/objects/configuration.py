"""Data objects of `configuration`: profiles, files, users and networks that a checkpoint applies."""

from typing import Literal

from dcd.manifest.data_object import DataObject, attribute, many, optional, text
from dcd.manifest.forms import (
    ACCOUNT,
    ACCOUNT_PATH,
    ADDRESSES,
    ADDRESSES_WITH_PREFIX,
    CLIENT_PATH,
    DOMAINS,
    FULL_NAME,
    GROUPS,
    HOST_PATH,
    IDENTIFIER,
    IMAGE_PATH,
    INTERFACE,
    LINE,
    MODE,
    OWNER,
    PASSWORD,
    VALIDATION_ARGUMENTS,
    VALIDATION_COMMAND,
)

LARGEST_ID = 2**32 - 2
"""Of a user or group; the number after it means \"none\" to chown(2)."""


class Validation(DataObject, tag="validation"):
    """A command that checks the source when the manifest is checked; it gets a copy of it as its last
    argument. Anybody who may submit can use `svccfg apply -n`, `svccfg validate` and `xmllint --noout`; any
    other command needs the right `host_code`. It runs as nobody, without network. A file of the image is not
    checked."""

    path: str | None = attribute("The command.", default=None, form=VALIDATION_COMMAND)
    args: str | None = attribute(
        "Its arguments, separated by spaces.", default=None, form=VALIDATION_ARGUMENTS
    )
    on_error: Literal["stop", "continue"] = attribute("What a failed check does.", default="stop")


class Password(DataObject, tag="password"):
    """A password: as text, hashed, locked, or by reference to where the daemon finds it."""

    hashed: bool = attribute("The text is a crypt(5) hash.", default=False)
    SECRETS = ("text",)

    locked: bool = attribute("No password opens the account.", default=False)
    file: str | None = attribute(
        "A file of the daemon's host that holds it; read when it is needed, stored nowhere.",
        default=None,
        form=HOST_PATH,
    )
    env: str | None = attribute(
        "A variable of the daemon's environment that holds it; stored nowhere.",
        default=None,
        form=IDENTIFIER,
    )
    text: str = text("The password or hash itself.", default="", form=PASSWORD)


class User(DataObject, tag="user", content=(optional(Password),)):
    """An account in the image: created, or, when it exists, changed."""

    name: str = attribute("The account's name.", form=ACCOUNT)
    full_name: str | None = attribute("The person's name.", default=None, form=FULL_NAME)
    uid: int | None = attribute("The user id.", default=None, minimum=0, maximum=LARGEST_ID)
    groups: str = attribute(
        "Groups that it joins, separated by spaces or commas.", default="", form=GROUPS
    )
    home: str | None = attribute("Its home directory.", default=None, form=ACCOUNT_PATH)
    shell: str | None = attribute("Its login shell.", default=None, form=ACCOUNT_PATH)


class Interface(DataObject, tag="interface"):
    """A network interface of the image."""

    match: str = attribute("The interface's name, or a pattern such as `en*`.", form=INTERFACE)
    dhcp: bool = attribute("Configure it by DHCP.", default=True)
    address: str | None = attribute(
        "Addresses with prefix length, separated by spaces.",
        default=None,
        form=ADDRESSES_WITH_PREFIX,
    )
    gateway: str | None = attribute("The default router.", default=None, form=ADDRESSES)
    dns: str | None = attribute("Name servers, separated by spaces.", default=None, form=ADDRESSES)
    domains: str | None = attribute(
        "Search domains, separated by spaces.", default=None, form=DOMAINS
    )


class Configuration(
    DataObject,
    tag="configuration",
    content=(optional(Validation), many(User), many(Interface)),
):
    """Something that the checkpoint of the same name applies: a profile or file, users, interfaces."""

    name: str = attribute("The checkpoint's name.", form=LINE)
    type: Literal["network", "sysconf", "user", "zone"] | None = attribute(
        "What kind of configuration it is.", default=None
    )
    source: str | None = attribute(
        "The file to apply or add. A relative path begins at the manifest's directory.",
        default=None,
        form=CLIENT_PATH,
    )
    dest: str | None = attribute("Where it goes in the image.", default=None, form=IMAGE_PATH)
    mode: str | None = attribute("The file's mode in the image.", default=None, form=MODE)
    owner: str | None = attribute(
        "The file's owner and group in the image.", default=None, form=OWNER
    )
