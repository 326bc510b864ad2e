"""The event log in PostgreSQL, for a farm."""
