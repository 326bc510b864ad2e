"""The repository of a container registry through which build servers share layers, and its login."""

from dataclasses import replace

from dcd.checkpoints.publish.parts import login_of
from dcd.configuration import Configuration
from dcd.platform.publishing.http import Texts, server_of
from dcd.platform.publishing.registry import Registry
from statemachine.errors import DcdError, Unprepared

ANSWER_SECONDS = 10.0
"""How long each step of a request may take."""

TEXTS = Texts(
    "does not work as the registry for layers",
    "builds make their layers themselves meanwhile",
    "correct the secret that farm_registry_login names; its user has to read and write there",
    "create the repository, or correct farm_registry",
)


def read_login(settings: Configuration) -> tuple[str, str] | None:
    """User and password for the registry; None without. Raises Unprepared."""
    try:
        return login_of(settings.farm_registry_login or None)
    except DcdError as error:
        raise Unprepared(
            "the login of the registry for layers cannot be read",
            str(error),
            "write USER:PASSWORD into the secret that farm_registry_login names, or remove the setting",
        ) from error


def reading_registry(url: str, login: tuple[str, str] | None) -> Registry:
    """The repository for shared layers, to read from it without a second try."""
    server, path = server_of(url, ANSWER_SECONDS, lambda _: None)
    return Registry(replace(server, texts=TEXTS, pauses=()), path.lstrip("/"), login, "pull")


def said(error: Exception) -> str:
    """What went wrong, on one line, without the remedy."""
    parts = (error.brief, error.details) if isinstance(error, DcdError) else (str(error),)
    return "; ".join(" ".join(parts).splitlines())
