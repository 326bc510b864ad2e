"""The daemon's side of SMF: its settings as properties, and its exit status for the restarter.

Source: svcprop(1), smf_method(7). Only for a process that an SMF method started: SMF_FMRI names the
service instance.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from dcd.configuration import InvalidConfiguration
from dcd.configuration.read import SMF_GROUP
from dcd.configuration.settings import ILLUMOS_RUN_DIRECTORY, SETTINGS, Setting
from dcd.configuration.webhooks import Webhook
from smf import Property
from statemachine.errors import DcdError, PermissionDenied, Unavailable, Unprepared

EXIT_ERROR = 1
"""Any other failure: startd tries again, and puts the service into maintenance after repeated
failures."""
EXIT_FATAL = 95
EXIT_CONFIG = 96
EXIT_PERMISSION = 100

_LIMIT_SECONDS = 30.0


def settings(environment: Mapping[str, str] = os.environ) -> str:
    """The property group of the settings as `svcprop` prints it, for `configuration.from_smf`.

    The present values of instance and service together: `svcadm refresh` has updated the running
    snapshot. Raises Unprepared outside SMF and when svcprop fails.
    """
    instance = environment.get("SMF_FMRI", "")
    if not instance:
        raise Unprepared(
            "the settings cannot be read from SMF",
            "SMF_FMRI is not set, so no SMF method started this process",
            "start the service with svcadm, or use --config FILE",
        )
    command = ["svcprop", "-p", SMF_GROUP, instance]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_LIMIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unprepared("the settings cannot be read from SMF", str(error)) from None
    if result.returncode != 0:
        raise Unprepared(
            "the settings cannot be read from SMF",
            f"{' '.join(command)}: exit status {result.returncode}: {result.stderr.strip()}",
            "import the manifest again: dcd smf-manifest >/lib/svc/manifest/site/dcd.xml, then "
            "svcadm restart manifest-import",
        )
    return result.stdout


def exit_status(error: DcdError) -> int:
    """The exit status of a start method that ended in `error`: an error that a retry cannot fix leads
    to maintenance at once."""
    if isinstance(error, InvalidConfiguration):
        return EXIT_CONFIG
    if isinstance(error, PermissionDenied):
        return EXIT_PERMISSION
    if isinstance(error, Unavailable | Unprepared):
        return EXIT_FATAL
    return EXIT_ERROR


def properties() -> list[Property]:
    """Every setting as a property of the service, with its default."""
    return [_property(setting) for setting in SETTINGS.values()]


def _property(setting: Setting) -> Property:
    when = "" if setting.reloads else " Takes effect at the next restart."
    return Property(
        name=setting.name,
        type="count" if setting.kind in (int, float) else "astring",
        values=_values(setting),
        is_list=_is_list(setting),
        description=setting.description + when,
        unit=setting.unit,
        choices=setting.choices,
        minimum=setting.minimum,
    )


def _is_list(setting: Setting) -> bool:
    return setting.kind in (
        tuple[str, ...],
        tuple[Path, ...],
        tuple[Webhook, ...],
        Mapping[str, Path],
    )


def _values(setting: Setting) -> tuple[str, ...]:
    if setting.kind == Mapping[str, Path]:
        return tuple(f"{prefix}={directory}" for prefix, directory in setting.default.items())
    if _is_list(setting):
        return tuple(str(value) for value in setting.default)
    if setting.name == "socket":  # independent of the host that prints the manifest
        return (str(ILLUMOS_RUN_DIRECTORY / "dcd.sock"),)
    return (str(int(setting.default)) if setting.kind is float else str(setting.default),)
