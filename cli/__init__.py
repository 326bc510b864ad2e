"""dcctl: a thin client of the daemon. Imports no daemon module, no SQLAlchemy, no lxml."""
