"""Tables about a selection and a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.table import Table

from ..finetune.judging.classes import ClassScore
from ..finetune.partial_epochs import mean_share, part_of_full
from ..models.roles import by_number
from ..selecting.overview import Line, Overview
from . import show_evaluation


def selection(lines: Iterable[dict[str, Any]], drawn: str = "") -> Table | str:
    """What is selected by layer and weight, and how much of the sensitivity that holds; `lines` as in the report.

    Of what was drawn by chance a table would say nothing: a line is given in its place.

    Args:
        drawn: the kind of the units, if they were drawn by chance.
    """
    chosen = Overview(Line(**line) for line in lines)
    taken = [line for line in chosen if line.selected_entries]
    count, kinds = sum(line.selected_entries for line in taken), drawn or " and ".join(dict.fromkeys(line.kind for line in taken))
    title = f"selected: {count:,} entries of {len(taken)} weights" + (f", by {kinds}" if kinds else "")
    if drawn:
        return f"{title}, drawn by chance ({count / max(1, sum(line.entries for line in taken)):.1%})"
    table = Table(title=title, caption=chosen.hold or None, box=box.SIMPLE_HEAD, padding=0)  # for 80 columns
    header, *rows = chosen.table(brackets=False)
    for heading in header:
        whole = heading in ("layer", "entries", "chosen", "left")
        table.add_column(heading, justify="right", no_wrap=whole, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


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


def classes(report: Any) -> Table:
    """How each label fares where a text may have several: on the test data, else on the validation data."""
    part = "test" if "test" in report.classes else "validation"
    lines = [ClassScore(**line) for line in report.classes[part]]
    return show_evaluation.classes(lines, f"labels, on the {part} data", "report.json")


def active(lines: list[dict[str, Any]], most: int = 8) -> Table:
    """Share of the tokens that took part in the backward, by layer of the model and epoch; `lines` as `Report.active` has them.

    Args:
        most: epochs that are shown, spread evenly, the last among them.
    """
    last = len(lines) - 1
    shown = [lines[round(i * last / max(1, most - 1))] for i in range(most)] if len(lines) > most else lines
    table = Table(title="tokens in the backward", caption="of a layer the mean over its linear layers", box=box.SIMPLE_HEAD)
    table.add_column("epoch")
    for line in shown:
        table.add_column(f"{line['epoch']:g}", justify="right")
    by_depth = [by_number(line["layers"]) for line in shown]
    for number in sorted({number for layers in by_depth for number in layers}):
        table.add_row(f"layer {number}", *(f"{layers[number]:.0%}" if number in layers else "" for layers in by_depth))
    table.add_section()
    table.add_row("all, by FLOPs", *(f"{line['tokens']:.0%}" for line in shown), style="bold")
    if all(line["flops"] is not None for line in shown):
        table.add_row("backward / full's", *(f"{line['flops']:.2f}" for line in shown), style="bold")
    return table


def summary(report: Any) -> Table:
    """What was trained, how long it took, and how large the result is."""
    epochs = report.seconds["epochs"]
    table = Table(show_header=False)
    table.add_row("trained", f"{report.trained:,} of {report.parameters:,} numbers ({report.trained / report.parameters:.2%})")
    table.add_row("choosing", f"{report.seconds['selecting']:.1f} s (head warm-up and choice)")
    if cost := report.cost:
        tokens = "with every token, " if report.active else ""
        batch = f"counted for {cost['batch']} texts of {cost['length']} tokens"
        table.add_row("backward", f"{tokens}{cost['share']:.1%} of full fine-tuning's FLOPs ({batch})")
    if report.active:
        table.add_row("at active tokens", _over_epochs(report.active, report.epochs))
    if report.examples:
        read = [line["tokens"] for line in report.examples]
        table.add_row("read", f"{mean_share(read, report.epochs):.1%} of the texts' tokens; the other examples taught little")
    if report.spent:
        how = "fits into the minutes" if "asked" in report.minutes else "was asked for"
        asked = f" ({report.config['cost']:.1%} {how})" if report.planned else ""
        table.add_row("all epochs", f"{part_of_full(report.spent, report.epochs):.1%} of full fine-tuning's FLOPs{asked}")
    if "paid" in (told := report.minutes):
        table.add_row("minutes", f"{told['paid']:.1f} ({told['predicted']:.1f} predicted, {told['asked']:g} asked for)")
    if epochs:
        table.add_row("an epoch", f"{sorted(epochs)[len(epochs) // 2]:.1f} s (median of {len(epochs)}, validation not counted)")
    if shared := report.exchanged:
        entries = f"{shared['bytes_an_entry']:.3g} bytes for each of {shared['entries']:,} numbers"
        table.add_row("exchanged", f"{size(shared['bytes'])} a step in each of {shared['processes']} processes ({entries})")
    if parts := report.divided:
        held = f"{size(parts['shards'])} of {size(parts['base'])}, and {size(parts['trained'])} of what is trained"
        table.add_row("each process", f"{held}; {size(parts['exchanged'])} exchanged a step, of {parts['processes']} processes")
    if fitted := report.calibration:
        errors = f"calibration error on validation {fitted['error_before']:.3f} -> {fitted['error_after']:.3f}"
        table.add_row("temperature", f"{fitted['temperature']:.2f} ({errors})")
    table.add_row("checkpoint", size(report.sizes["checkpoint"]))
    for what in ("delta", "adapter"):
        if what in report.sizes:
            times = report.sizes["checkpoint"] / report.sizes[what]
            table.add_row(what, f"{size(report.sizes[what])}, {times:.0f} times smaller")
    return table


def _over_epochs(active: list[dict[str, Any]], epochs: float) -> str:
    tokens, flops = ([line[name] for line in active] for name in ("tokens", "flops"))
    cost = "" if None in flops else f", {mean_share(flops, epochs):.1%} of full fine-tuning's FLOPs"
    return f"{mean_share(tokens, epochs):.1%} of the tokens{cost} (mean of {epochs or len(active):g} epochs)"


def seeds(found: dict[str, Any], best_by: str) -> Table:
    """The scores of every seed, the one that is kept marked, their mean and spread; `found` as `Report.seeds` has it."""
    columns = [(part, name) for part, scores in found["mean"].items() for name in scores if name != "loss"]
    table = Table(title="seeds", caption=f"kept is the best by {best_by} on the validation data: ●", box=box.SIMPLE_HEAD)
    for heading in ("", "seed", *(f"{part} {name}".replace("_", " ") for part, name in columns)):
        table.add_column(heading, justify="right")
    for run in found["runs"]:
        mark = "●" if run["seed"] == found["best"] else ""
        table.add_row(mark, str(run["seed"]), *(f"{run[part][name]:.4f}" for part, name in columns))
    table.add_section()
    for what in ("mean", "sd"):
        table.add_row("", what, *(f"{found[what][part][name]:.4f}" for part, name in columns), style="bold")
    return table


def search(found: dict[str, Any], most: int = 20) -> Table:
    """The trials of a search, the best ones first; `found` as `Report.search` has it."""
    trials = sorted(enumerate(found["trials"], start=1), key=lambda pair: -pair[1]["validation"])
    left_out = len(trials) - most
    caption = f"{left_out} more in trials.csv" if left_out > 0 else "the best is trained again, with the test data: ●"
    table = Table(title="trials, by validation", caption=caption, box=box.SIMPLE_HEAD)
    for heading in ("", "trial", *found["space"], "validation", "seconds"):
        table.add_column(heading.replace("_", " "), justify="right")
    for number, trial in trials[:most]:
        options = (f"{trial[name]:.3g}" for name in found["space"])
        mark = "●" if number == found["best"] else ""
        table.add_row(mark, str(number), *options, f"{trial['validation']:.4f}", f"{trial['seconds']:.1f}")
    return table


def tasks(found: dict[str, Any]) -> Table:
    """The scores of several tasks, each by what its best checkpoint was chosen by; `found` as `Trained.table` has it."""
    table = Table(title="tasks", box=box.SIMPLE_HEAD)
    for heading in ("task", "kind", "score"):
        table.add_column(heading)
    for heading in ("validation", "test"):
        table.add_column(heading, justify="right")
    for name, one in found["tasks"].items():
        by = one["best_by"]
        tested = f"{one['test'][by]:.4f}" if one["test"] else ""
        table.add_row(name, one["task"], by.replace("_", " "), f"{one['validation'][by]:.4f}", tested)
    for name in found["failed"]:
        table.add_row(name, "", "failed", "", "", style="bold red")
    return table


def essence(report: Any, output: str) -> str:
    """The score that counts, and where the result is."""
    if found := report.seeds:
        each = ((part, found["mean"][part][report.best_by], found["sd"][part][report.best_by]) for part in found["mean"])
        told = (f"{part} {report.best_by} {mean:.4f} ± {sd:.4f}" for part, mean, sd in each)
        return f"{', '.join(told)} ({len(found['runs'])} seeds), kept: seed {found['best']}: {output}"
    scores = {"validation": report.best} | ({"test": report.test} if report.test else {})
    told = (f"{part} {report.best_by} {line[report.best_by]:.4f}" for part, line in scores.items() if report.best_by in line)
    return f"{', '.join(told)}: {output}"


def size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
