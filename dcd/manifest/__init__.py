"""The manifest: parsing, grammar, diagnostics, and the tree of data objects made from it (DOC)."""
