"""What the host does for the project: processes, mounts, devices, capabilities, durable writes.

The ground: nothing of the project is below it but the errors of `statemachine`.
"""
