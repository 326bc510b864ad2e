"""Checkpoints that pack a virtual machine's disk as clouds and their tools take it, and configure it
there."""
