"""The API: HTTP/1.1 and JSON over the daemon's Unix socket. docs/reference/api.md describes it."""
