"""Durable storage: the event log, layers, blobs and artifacts.

Importing this package loads none of them, so that a worker does not load SQLAlchemy.
"""
