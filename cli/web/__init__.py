"""The web page: a gateway that a user runs on 127.0.0.1, and the files of the page.

The gateway speaks to the daemon's socket as the user who runs it, so the daemon's roles hold, and the
daemon itself has no port. Needs the extra `dcd[web]`; nothing else in `cli` imports this package.
"""
