"""Alembic's environment and revisions of the event log; run at open by `store.eventlog.sqlite.database`."""
