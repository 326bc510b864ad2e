"""The launcher: the one process of the daemon that keeps root.

It makes layers, starts and ends workers, and publishes artifacts, at the request of the daemon's main
process, which reads what clients send and has no right of root. The launcher trusts nothing in a request:
it accepts the operations of `dcd.launcher.operations` with arguments of their types, names by pattern, and
what a worker may use of the host only within `dcd.launcher.bounds`. It reads no manifest, uses no network,
and imports nothing but the standard library and this project.

    client.py        the main process's side
    __main__.py      the process: one thread a conversation
    preparation.py   the start: owners of the state directory, remains of a dead daemon, the layer back end
    operations.py    what can be requested
    bounds.py        the most that a worker is given
    workers.py       a worker from its start to its end
    zygote.py        the process from which workers are forked
    processes.py     waiting for processes of namespaces, and killing them
    signatures.py    signing what a build has published
    planners.py      the process from which planners are forked

It is as OpenSSH's monitor and Postfix's master are; see docs/adr/0009-launcher.md.
"""
