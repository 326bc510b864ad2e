"""Manifests from before the Caiman Unified Design, rewritten in its vocabulary."""

from dcd.manifest.migrate.convert import Migrated, migrate

__all__ = ["Migrated", "migrate"]
