"""What a row found, and how it is written down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a figure should be.

    Attributes:
        value: In the result's unit, on the reference machine.
        higher_is_better: Whether more is better.
        yardstick: The yardstick that decides; empty where the figure itself does.
        ratio: Figure divided by that yardstick, as the target has it.
    """

    value: float
    higher_is_better: bool = True
    yardstick: str = ""
    ratio: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One figure with its yardsticks.

    Attributes:
        row: Which row it belongs to.
        what: What was measured.
        value: The median, in `unit`.
        spread: Lowest and highest round.
        unit: Such as ``events/s``.
        yardsticks: The same unit, measured in turn with it.
        target: None where there is none.
        detail: Counts, checks and settings that make the figure understandable, as plain values.
        skipped: Why there is no figure; empty when there is.
    """

    row: str
    what: str
    value: float = 0.0
    spread: tuple[float, float] = (0.0, 0.0)
    unit: str = ""
    yardsticks: dict[str, float] = field(default_factory=dict)
    target: Target | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""

    @property
    def ratios(self) -> dict[str, float]:
        """The figure divided by each yardstick."""
        return {name: self.value / figure for name, figure in self.yardsticks.items() if figure}

    @property
    def verdict(self) -> str:
        """``met``, ``missed`` or empty where nothing is asked."""
        target = self.target
        if self.skipped or target is None:
            return ""
        figure, wanted = self.value, target.value
        if target.yardstick:
            figure, wanted = self.ratios[target.yardstick], target.ratio
        return "met" if (figure >= wanted if target.higher_is_better else figure <= wanted) else "missed"


def number(value: float) -> str:
    """Return a figure with three significant digits and a unit prefix a reader expects."""
    for limit, sign in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {sign}"
    return f"{value:.3g}"


def _line(result: Result) -> list[str]:
    if result.skipped:
        return [result.row, result.what, f"not run: {result.skipped}", "", "", ""]
    target = ""
    if result.target is not None:
        sign = "≥" if result.target.higher_is_better else "≤"
        target = f"{sign} {number(result.target.value)}"
        if result.target.yardstick:
            target += f" ({sign} {result.target.ratio:.3g} of {result.target.yardstick})"
    low, high = result.spread
    between = f" ({number(low)} to {number(high)})" if high > low else ""
    against = "; ".join(f"{n} {number(v)}: x{result.ratios[n]:.3g}" for n, v in result.yardsticks.items() if v)
    return [result.row, result.what, f"{number(result.value)} {result.unit}{between}", target, against, result.verdict]


_HEADINGS = ("row", "what", "figure", "target", "yardsticks", "verdict")


def show(results: Sequence[Result], console: Console) -> None:
    """Print the results as a table."""
    table = Table(*_HEADINGS, show_lines=True)
    for result in results:
        colour = {"met": "green", "missed": "red"}.get(result.verdict, "")
        *cells, verdict = _line(result)
        table.add_row(*cells, f"[{colour}]{verdict}[/]" if colour else verdict)
    console.print(table)


def write(results: Sequence[Result], machine: dict[str, Any], folder: Path, name: str) -> tuple[Path, Path]:
    """Write the results as JSON and as Markdown; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_text = folder / f"{name}.json", folder / f"{name}.md"
    values = [asdict(r) | {"ratios": r.ratios, "verdict": r.verdict} for r in results]
    as_json.write_text(json.dumps({"machine": machine, "results": values}, indent=1) + "\n")
    lines = [f"# Measured {name}", ""]
    lines += [f"- {key}: {value}" for key, value in machine.items()]
    lines += ["", "| " + " | ".join(_HEADINGS) + " |", "|" + "---|" * len(_HEADINGS)]
    lines += ["| " + " | ".join(" ".join(cell.split()) for cell in _line(r)) + " |" for r in results]
    details = [(r.what, r.detail) for r in results if r.detail]
    lines += ["", "## Details", "", *(f"- {what}: {json.dumps(detail)}" for what, detail in details)]
    as_text.write_text("\n".join(lines) + "\n")
    return as_json, as_text
