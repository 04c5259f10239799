"""Writes the scheduler's diagram into DESIGN.md from its table of transitions; --check says whether it is true."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from mrfast.control.transitions import TRANSITIONS

DESIGN = Path(__file__).resolve().parent.parent / "DESIGN.md"
BEGIN, END = "<!-- diagram: scripts/diagram.py -->\n", "<!-- end of diagram -->\n"


def diagram() -> str:
    """A state diagram for each thing that has states, in Mermaid."""
    edges: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for (what, state, event), after in TRANSITIONS.items():
        edges[what][state, after].append(event)
    lines = ["```mermaid", "stateDiagram-v2"]
    for what, states in edges.items():
        lines.append(f"    state {what} {{")
        for (state, after), events in states.items():
            lines.append(f"        {what}_{state} --> {what}_{after}: {', '.join(events)}")
        lines.append("    }")
    return "\n".join([*lines, "```", ""])


def main() -> int:
    """0 if the document has the diagram of the table, or has it now."""
    text = DESIGN.read_text()
    head, begin, rest = text.partition(BEGIN)
    old, end, tail = rest.partition(END)
    if not begin or not end:
        print(f"{DESIGN.name} has no place for the diagram: {BEGIN.strip()} ... {END.strip()}")
        return 1
    if "--check" in sys.argv:
        if old != diagram():
            print(f"{DESIGN.name}: the diagram is not that of the table; python scripts/diagram.py writes it")
        return int(old != diagram())
    DESIGN.write_text(head + begin + diagram() + end + tail)
    return 0


if __name__ == "__main__":
    sys.exit(main())
