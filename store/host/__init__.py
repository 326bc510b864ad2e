"""Access to the host: processes, mounts, devices, capabilities, durable writes.

The base of the project: imports only the errors of `statemachine`.
"""
