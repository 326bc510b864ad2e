"""Pictures show the machine that is there, and where the build stands."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from statemachine.commands import Pause
from statemachine.graph import graph
from statemachine.plan import Plan


def test_mermaid_marks_both_present_states(begin: Callable[..., Any]) -> None:
    build = begin().run_to(1)
    build.do(Pause("because"))
    text = graph(build.machine, "mermaid")
    assert text.startswith("stateDiagram-v2\n")
    assert present(text) == {"paused", "after a"}
    assert edge(text, "after a", "after b") == "b"
    assert edge(text, "after b", "after a") == "rewind b"
    assert edge(text, "paused", "queued") == "resume"


def test_dot_marks_both_present_states(begin: Callable[..., Any]) -> None:
    text = graph(begin().run_to(2).machine, "dot")
    marked = re.findall(r'label="([^"]+)", style="rounded,filled,bold"', text)
    assert marked == ["running", "after b"]
    assert text.startswith('digraph "live" {\n') and text.endswith("}\n")
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("text_format", ["mermaid", "dot"])
def test_names_cannot_break_out_of_the_picture(
    begin: Callable[..., Any], make_plan: Callable[..., Plan], text_format: Any
) -> None:
    plan = make_plan('a"; x -> y; "', "b\nstate z", "c:#]")
    text = graph(begin(plan).machine, text_format)
    plain = graph(begin().machine, text_format)
    assert text.count("\n") == plain.count("\n")
    assert len(re.findall(r"^ *s\d+ -+> s\d+", text, re.M)) == len(
        re.findall(r"^ *s\d+ -+> s\d+", plain, re.M)
    )
    assert not re.search(r'(?<!\\)"; x -> y', text)


def labels(text: str) -> dict[str, str]:
    return {i: label for label, i in re.findall(r'state "([^"]+)" as (s\d+)', text)}


def present(text: str) -> set[str]:
    return {labels(text)[i] for i in re.findall(r"class (s\d+) present", text)}


def edge(text: str, source: str, dest: str) -> str:
    ids = {label: i for i, label in labels(text).items()}
    found = re.search(rf"{ids[source]} --> {ids[dest]}: (.+)", text)
    assert found
    return found[1]
