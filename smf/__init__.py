"""The SMF service: its manifest, method script and RBAC entries, for illumos build servers."""

from smf.manifest import Property, smf_manifest

__all__ = ["Property", "smf_manifest"]
