"""What a finished job is to its user: numbers, and the pairs of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .model import part_name


@dataclass(frozen=True, repr=False)
class JobResult:
    """A finished job: its id, where its output is, how much went in and out, and its records."""

    job: str
    output_url: str
    document: dict[str, Any]

    @property
    def parts(self) -> list[str]:
        """The URLs of the parts, `mr-out-0` first."""
        compress = self.document.get("compress", "")
        names = (part_name(part["partition"], compress) for part in self.document["parts"])
        return [f"{self.output_url.rstrip('/')}/{name}" for name in names]

    @property
    def totals(self) -> dict[str, Any]:
        """maps, reduces, bytes_in, records_emitted, records_shuffled, records_out and bytes_out of the job."""
        return dict(self.document["totals"])

    @property
    def counters(self) -> dict[str, int]:
        """What tasks have counted besides: by mrfast.count(), and lines that `bad="skip"` skipped."""
        return dict(self.document["counters"])

    @property
    def hot_keys(self) -> list[dict[str, Any]]:
        """The ten keys with the most bytes in the shuffle: key, bytes, records, share (0 to 1), partition of each.

        Those of a key that some maps emitted little of may be too low. What to do about them is `hot_advice`.
        """
        return list(self.document.get("hot_keys", ()))

    @property
    def hot_advice(self) -> str:
        """One line on a key that dominates the shuffle, or a combiner that would help; empty if there is neither."""
        return str(self.document.get("hot_advice", ""))

    @property
    def requests(self) -> dict[str, Any]:
        """What was sent to S3: by_verb, by_phase, by_outcome, bytes_up and bytes_down."""
        return dict(self.document["requests"])

    @property
    def cost_usd(self) -> float:
        """What these requests cost, in dollars, by the price table."""
        return float(self.document["cost_usd"])

    cost = cost_usd

    @property
    def seconds(self) -> float:
        """How long the job took, from its start to its commit."""
        return float(self.document["seconds"])

    def records(self) -> Iterator[tuple[Any, Any]]:
        """(key, value) of every line of every part, in order of partition and key; a raw part has None as its keys.

        Keys and values are text as the part holds it, except those of a jsonl part, which are what was emitted.
        """
        from .cat import read_output

        return read_output(self.output_url, self.document)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """The same in order of the keys' bytes over all parts, if reduce keeps to its keys."""
        from .cat import read_merged

        return read_merged(self.output_url, self.document)

    def to_dict(self) -> dict[Any, Any]:
        """The value of each key, in the order of the keys' bytes; of a key that comes twice, the last."""
        return dict(self)

    def __repr__(self) -> str:
        said = (
            f"JobResult({self.job!r}, {self.totals['records_out']:,} records in {len(self.document['parts']):,} parts"
        )
        return f"{said}, {self.seconds:.2f} s, {self.output_url!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from html import escape

        shown = {"job": self.job, "output": self.output_url, "seconds": f"{self.seconds:.2f}"}
        numbers = self.totals | dict(sorted(self.counters.items()))
        shown |= {name: f"{number:,}" for name, number in numbers.items()} | {"cost": f"${self.cost:,.4f}"}
        rows = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in shown.items())
        return f"<table>{''.join(rows)}</table>"

    def text(self) -> str:
        """All parts as one text, decompressed."""
        from .cat import part_blocks

        blocks = (bytes(block) for url in self.parts for block in part_blocks(url))
        return b"".join(blocks).decode("utf-8", "backslashreplace")
