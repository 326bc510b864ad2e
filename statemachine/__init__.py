"""Pure: events, the build lifecycle, plans and keys. No I/O; imports nothing of the project."""
