"""The results of `make bench`: named figures, each with the values of its rounds and its target."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from rich.table import Table


class Figure(NamedTuple):
    """One result: values of the rounds in `unit`, and its target (None: for information)."""

    name: str
    values: list[float]
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def median(self) -> float:
        """The middle value of the rounds."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Whether the target is met."""
        if self.at_most is not None:
            return f"{'met' if self.median <= self.at_most else 'NOT met'} (≤ {self.at_most:g})"
        if self.at_least is not None:
            return f"{'met' if self.median >= self.at_least else 'NOT met'} (≥ {self.at_least:g})"
        return ""


class Figures:
    """All figures of a run, in the order in which they were first measured."""

    def __init__(self) -> None:
        self._figures: dict[str, Figure] = {}

    def __getitem__(self, name: str) -> Figure:
        return self._figures[name]

    def add(
        self, name: str, value: float, unit: str, *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        """Add the value of one round."""
        self._figures.setdefault(name, Figure(name, [], unit, at_most, at_least)).values.append(value)

    def as_json(self) -> list[dict[str, object]]:
        """Return the figures, ready to be written as JSON."""
        return [figure._asdict() | {"median": figure.median, "verdict": figure.verdict} for figure in self._all()]

    def table(self) -> Table:
        """Return the figures as a table."""
        table = Table("figure", "median", "spread", "unit", "target", title="bench")
        for figure in self._all():
            spread = f"{min(figure.values):.4g} - {max(figure.values):.4g}"
            style = "red" if figure.verdict.startswith("NOT") else ""
            table.add_row(figure.name, f"{figure.median:.4g}", spread, figure.unit, figure.verdict, style=style)
        return table

    def _all(self) -> list[Figure]:
        return list(self._figures.values())
