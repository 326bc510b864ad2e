"""The SMF repository of an image of illumos, and the profiles that decide which services it starts.

On illumos, svccfg(8) imports the image's service manifests into a new repository and applies the profiles, as
the original did. Elsewhere there is no svccfg: the repository is a copy of a seed (the one that the manifest
gives, or /lib/svc/seed/global.db of the image), and the profiles are put into /etc/svc/profile/site. The
image imports its manifests and applies these profiles when it starts for the first time, which takes minutes
longer.
Source: svccfg(8), smf_bootstrap(7), smf(7) "Profiles"; kayak's miniroot, which starts from the seed too.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dcd.checkpoints.areas import captured_file
from dcd.checkpoints.illumos_host import is_illumos
from dcd.checkpoints.interface import Context
from dcd.manifest.inputs import is_in_image
from dcd.manifest.objects.configuration import Configuration
from dcd.platform.inside import entry, exists, make_directory, new_file, regular_file, write

REPOSITORY = "etc/svc/repository.db"

_IMAGE = "{PKG_IMAGE_PATH}"
_SEED = "lib/svc/seed/global.db"
_SITE = "etc/svc/profile/site"
_DTD = "usr/share/lib/xml/dtd/service_bundle.dtd.1"
_MANIFESTS = ("lib/svc/manifest", "var/svc/manifest")


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile: a file of the build, and its name without a directory."""

    file: Path
    name: str


def profiles_of(context: Context, configurations: Sequence[Configuration]) -> list[Profile]:
    """The profiles of a checkpoint, in order. One that the image does not have is a warning: lists name
    the places of several releases."""
    found: list[Profile] = []
    for each in configurations:
        if each.source is None or each.dest is not None:
            continue
        name = Path(each.source).name
        if not is_in_image(each):
            found.append(Profile(captured_file(context.inputs, each.source), name))
            continue
        file = regular_file(context.pkg_image, each.source.removeprefix(_IMAGE))
        if file is None:
            context.warn(f"the image has no profile {each.source}; skipped")
        else:
            found.append(Profile(file, name))
    return found


def preload(context: Context, profiles: Sequence[Profile], seed: Path | None) -> None:
    """Put the repository into the image, with the profiles applied, or in a place where the image applies
    them."""
    if seed is None and is_illumos():
        _import(context, profiles)
        return
    found = seed or regular_file(context.pkg_image, _SEED)
    if found is None:
        context.warn(
            f"the image has no /{REPOSITORY}: it has no /{_SEED} to copy, and the manifest gives no "
            "smf_repository"
        )
    else:
        shutil.copyfile(found, target := new_file(context.pkg_image, REPOSITORY))
        target.chmod(0o600)
    make_directory(context.pkg_image, _SITE)
    for number, profile in enumerate(profiles, start=1):
        place = f"{_SITE}/dcd-{number:02}-{profile.name}"
        write(context.pkg_image, place, profile.file.read_bytes(), mode=0o444)


def _import(context: Context, profiles: Sequence[Profile]) -> None:
    image = context.pkg_image
    repository = context.tmp / "repository.db"
    env = {
        "SVCCFG_REPOSITORY": str(repository),
        "SVCCFG_DTD": str(entry(image, _DTD)),
        "SVCCFG_MANIFEST_PREFIX": str(image),
        "SVCCFG_CHECKHASH": "1",
    }
    for directory in _MANIFESTS:
        if exists(image, directory):
            context.run(["svccfg", "import", entry(image, directory)], env=env)
    for profile in profiles:
        context.run(["svccfg", "apply", profile.file], env=env)
    shutil.copyfile(repository, target := new_file(image, REPOSITORY))
    target.chmod(0o600)
