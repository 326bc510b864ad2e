"""The SMF service: its manifest, method script and RBAC entries, for illumos build servers."""

from smf.manifest import smf_manifest

__all__ = ["smf_manifest"]
