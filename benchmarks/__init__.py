"""Benchmarks: what dcd costs beside the bare tools, and how it bears long histories.

`python -m benchmarks [NAME...]` (or `make bench`) runs them against the code as it stands and prints a
table; `--json FILE` keeps every value. Each benchmark is a function that yields `Figure`s; those with a
limit are promises of the project, and the exit status is 1 when one is not kept. Run them on a machine
that does nothing else, as root. Nothing here is part of what is installed.
"""
