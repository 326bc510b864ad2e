"""Diagrams of a build's machine as text: Mermaid (https://mermaid.js.org) and DOT (https://graphviz.org).

The diagrams show the machine's own transitions, both regions side by side, with the present states
marked. A rewind over several checkpoints takes several of the steps back shown. Pure.
"""

from collections.abc import Iterator
from typing import Literal

from statemachine.machine import COMMANDS, BuildMachine, Edge

Format = Literal["mermaid", "dot"]


def graph(machine: BuildMachine, text_format: Format) -> str:
    """The machine as Mermaid or DOT text, ending in a newline."""
    lines = _mermaid(machine) if text_format == "mermaid" else _dot(machine)
    return "\n".join(lines) + "\n"


def _mermaid(machine: BuildMachine) -> Iterator[str]:
    edges, ids = _drawn(machine)
    yield "stateDiagram-v2"
    yield "    classDef present fill:#2e7d32,color:#fff,font-weight:bold"
    for (_, state), name in ids.items():
        yield f'    state "{_mermaid_text(state)}" as {name}'
    for edge in edges:
        source, dest = ids[edge.region, edge.source], ids[edge.region, edge.dest]
        yield f"    {source} --> {dest}: {_mermaid_text(_label(edge))}"
    for place in machine.places().items():
        yield f"    class {ids[place]} present"


def _dot(machine: BuildMachine) -> Iterator[str]:
    edges, ids = _drawn(machine)
    present = machine.places()
    yield f"digraph {_dot_text(machine.state.name)} {{"
    yield "    node [shape=box, style=rounded]"
    for region in present:
        yield f"    subgraph cluster_{region} {{"
        yield f"        label={_dot_text(region)}"
        for (owner, state), name in ids.items():
            if owner == region:
                mark = ', style="rounded,filled,bold", fillcolor="#a5d6a7"'
                shown = mark if present[region] == state else ""
                yield f"        {name} [label={_dot_text(state)}{shown}]"
        yield "    }"
    for edge in edges:
        source, dest = ids[edge.region, edge.source], ids[edge.region, edge.dest]
        yield f"    {source} -> {dest} [label={_dot_text(_label(edge))}]"
    yield "}"


def _drawn(machine: BuildMachine) -> tuple[list[Edge], dict[tuple[str, str], str]]:
    """The transitions, and a plain identifier for each state, in the order of first use."""
    edges = list(machine.edges())
    states = dict.fromkeys((e.region, state) for e in edges for state in (e.source, e.dest))
    return edges, {state: f"s{number}" for number, state in enumerate(states)}


def _label(edge: Edge) -> str:
    """The label of a transition: the checkpoint in the position, the command or event in the lifecycle."""
    return COMMANDS.get(edge.name, edge.name).removeprefix("run ")


def _mermaid_text(text: str) -> str:
    return "".join(
        character if character.isalnum() or character in " _-./" else f"#{ord(character)};"
        for character in text
    )


def _dot_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'
