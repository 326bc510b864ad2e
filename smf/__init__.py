"""SMF service manifest, method script and RBAC files for illumos build servers."""
