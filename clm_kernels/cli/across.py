"""What `estimate` shows of several processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from .show import size

if TYPE_CHECKING:
    from ..measure.estimate.processes import Exchange


def across(found: Mapping[str, Exchange], title: str) -> Table:
    """A line for each way to train."""
    one = next(iter(found.values()))
    table = Table("", "peak\nof each", "gradients", "each\nsends", title=f"{one.processes} processes, a step: {title}")
    if one.gigabits is not None:
        table.add_column("backward")
        table.add_column("network")
        table.caption = "network: in Gbit/s, at which the exchange takes no longer than the backward, at the speed that was given"
    else:
        table.caption = "--tflops, the speed of one process, tells the network that hides the exchange"
    for column in table.columns[1:]:
        column.justify = "right"
    for name, way in found.items():
        told = [f"{way.peak / 1e9:.2f} GB", size(way.bytes), size(way.sent)]
        if way.backward_seconds is not None and way.gigabits is not None:
            told += [f"{way.backward_seconds * 1e3:.1f} ms", f"{way.gigabits:.3g}"]
        table.add_row(name, *told)
    return table
