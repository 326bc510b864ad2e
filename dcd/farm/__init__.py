"""A farm: several daemons on one event log, each the owner of the builds that it has taken.

Nothing here is imported without the table `[farm]` in the configuration.
"""
