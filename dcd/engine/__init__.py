"""The engine: turns commands into events and events into work. Nothing here knows HTTP."""
