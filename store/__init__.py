"""Durable: the event log, layers, blobs and artifacts.

Import the room that you need: importing this package loads none of them, so that a worker does not
pay for SQLAlchemy.
"""
