"""What an order for an attempt and the request to its worker share."""

from dataclasses import fields

from dcd.launcher.operations import AS_ORDERED
from dcd.launcher.orders import AttemptOrder
from dcd.worker.request import WorkerRequest


def test_what_a_worker_gets_as_ordered_has_the_same_type_in_both() -> None:
    ordered = {each.name: each.type for each in fields(AttemptOrder)}
    requested = {each.name: each.type for each in fields(WorkerRequest)}
    assert {name for name in ordered if requested.get(name) == ordered[name]} == set(AS_ORDERED)
