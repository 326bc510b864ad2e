"""Reading and planning manifests in separate processes, without root.

The daemon's process never parses client data: a separate process answers each question and exits. Its
time and memory are limited, a user has one at a time, and it is killed when its client disconnects.
Where root starts the daemon, it runs as dcd's own user in a root directory with listed contents
(`dcd.planner.confinement`). Input and output are plain data (`dcd.planner.tasks`): a manifest's text, the
paths of captured files and settings go in; plans, diagnostics and errors come out. The daemon's side is
`dcd.planner.client`; `python -m dcd.planner`, started with `dcd.planner.command`, is the other side.

This file imports nothing: the other side loads no third-party code before it has given up root.
"""
