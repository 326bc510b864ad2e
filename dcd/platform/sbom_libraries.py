"""The libraries of the extra `sbom`, and whether they are installed. Imports none of them."""

from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("debsbom", "cyclonedx-python-lib", "spdx-tools")
"""The distributions that decide the bytes of an SBOM."""

REMEDY = "install dcd with its extra: pip install 'dcd[sbom]'"


def library_versions() -> dict[str, str]:
    """Each library with its version; "" for one that is not installed."""
    return {name: _version(name) for name in LIBRARIES}


def missing_libraries() -> list[str]:
    """The libraries that are not installed."""
    return [name for name, found in library_versions().items() if not found]


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
