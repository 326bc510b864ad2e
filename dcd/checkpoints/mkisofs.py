"""How the project calls xorriso to make file systems of type ISO 9660.

xorriso looks for the end of its writing as often as it reports its progress, each second by default; so each
file system took a second. Source: xorriso(1), -pacifier; xorrisofs(1).
"""

MKISOFS = ("xorriso", "-no_rc", "-pacifier", "interval=0.1", "-as", "mkisofs", "-quiet")
"""The start of a command line, before the options of mkisofs."""
