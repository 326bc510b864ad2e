"""Webhooks: events of builds, sent to other servers at least once and in order."""
