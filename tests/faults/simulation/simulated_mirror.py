"""A checkpoint whose key covers the state of a mirror, and the mirror, which the simulation moves on."""

from dcd.checkpoints.interface import Checkpoint

state = "1"


class Transfer(Checkpoint):
    """Never executed: the simulation decides how attempts end."""

    def __init__(self, name: str, command: str) -> None:
        super().__init__(name)

    def external_state(self, doc):
        return {"mirror": state}

    def execute(self, context):
        raise NotImplementedError
