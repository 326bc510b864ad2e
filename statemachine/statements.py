"""The names of statements about builds: their types, the id of an unnamed builder, and their files.

Standard library only, for the process that signs them. `statemachine.provenance` makes them.
"""

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"

VERIFICATION_SUMMARY = "https://slsa.dev/verification_summary/v1"

UNNAMED = "urn:dcd:builder:unnamed"
"""The builder's id where the configuration gives none, or the events do not record it."""

PROVENANCE_SUFFIX = ".provenance.json"
BOOT_SUFFIX = ".boot.json"
REBUILD_SUFFIX = ".rebuild.json"
