"""Tables about a selection and a run."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from rich.table import Table

LAYER = re.compile(r"(?:^|\.)(\d+)\.(.+?)(?:\.dense)?\.weight$")


def selection(lines: list[dict[str, Any]]) -> Table:
    """Share of the entries selected, by layer and weight; `lines` as in the report."""
    cells: dict[str, dict[str, dict]] = defaultdict(dict)
    for line in lines:
        match = LAYER.search(line["name"])
        layer, part = match.groups() if match else ("", line["name"])
        cells[layer][part] = line
    parts = list(dict.fromkeys(part for row in sorted(cells.values(), key=len, reverse=True) for part in row))
    count = sum(line["selected_entries"] for line in lines)
    kinds = " and ".join(dict.fromkeys(line["kind"] for line in lines))
    table = Table(title=f"selected: {count:,} entries of {len(lines)} weights" + (f", by {kinds}" if kinds else ""))
    table.add_column("layer", justify="right")
    for part in parts:
        table.add_column(_short(part, parts).replace(".", "\n"), justify="right")
    table.add_column("entries", justify="right")
    for layer, row in sorted(cells.items(), key=lambda item: int(item[0] or -1)):
        shares = [f"{row[part]['selected_entries'] / row[part]['entries']:.1%}" if part in row else "" for part in parts]
        table.add_row(layer, *shares, f"{sum(line['selected_entries'] for line in row.values()):,}")
    return table


def _short(part: str, parts: list[str]) -> str:
    """The shortest end of a dotted name that no other has."""
    words = part.split(".")
    ends = (".".join(words[i:]) for i in range(len(words) - 1, 0, -1))
    return next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in parts if other != part)), part)


def scores(report: Any) -> Table:
    """Every validation, the best one marked, and the test."""
    names = [name for name in report.best if name not in ("epoch", "step", "train_loss")]
    table = Table(title="scores", caption=f"best by {report.best_by} on the validation data: ●")
    for name in ("", "epoch", "train loss", *names):
        table.add_column(name.replace("_", " "), justify="right")
    for line in report.history:
        loss = "" if line["train_loss"] is None else f"{line['train_loss']:.4f}"
        mark = "●" if line == report.best else ""
        table.add_row(mark, f"{line['epoch']:g}", loss, *(f"{line[name]:.4f}" for name in names))
    if report.test:
        table.add_section()
        table.add_row("test", "", "", *(f"{report.test[name]:.4f}" for name in names), style="bold")
    return table


def summary(report: Any) -> Table:
    """What was trained, how long it took, and how large the result is."""
    epochs = report.seconds["epochs"]
    table = Table(show_header=False)
    table.add_row("trained", f"{report.trained:,} of {report.parameters:,} numbers ({report.trained / report.parameters:.2%})")
    table.add_row("choosing", f"{report.seconds['selecting']:.1f} s (head warm-up and sensitivity)")
    if epochs:
        table.add_row("an epoch", f"{sorted(epochs)[len(epochs) // 2]:.1f} s (median of {len(epochs)}, validation not counted)")
    table.add_row("checkpoint", size(report.sizes["checkpoint"]))
    for what in ("delta", "adapter"):
        if what in report.sizes:
            times = report.sizes["checkpoint"] / report.sizes[what]
            table.add_row(what, f"{size(report.sizes[what])}, {times:.0f} times smaller")
    return table


def size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
