"""What parts of epochs cost, and the same number wherever it is told."""

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tiny_runs import base, silent  # noqa: F401

from clm_kernels.cli import show
from clm_kernels.finetune import train
from clm_kernels.finetune.pacing import Pace
from clm_kernels.finetune.partial_epochs import lengths, mean_share, part_of_full
from clm_kernels.finetune.shares import spent

COST = {"forward": 1.0, "full": 3.0, "share": 0.5}


def test_each_epoch_counts_by_its_length():
    assert lengths(2, 1.5) == [1.0, 0.5] and lengths(1, 0.25) == [0.25] and lengths(3, 0.0) == [1.0] * 3
    assert mean_share([0.6, 0.3], 1.5) == pytest.approx(0.5) and mean_share([0.4], 0.5) == pytest.approx(0.4)
    assert part_of_full([0.6, 0.15], 1.5) == pytest.approx(0.5) and part_of_full([0.5, 0.3], 0.0) == pytest.approx(0.4)


def test_half_an_epoch_takes_half_the_flops():
    assert spent(COST | {"share": 1.0}, [], [], 0.5) == [0.5]
    assert spent(COST, [], [], 1.5) == pytest.approx([0.625, 0.3125])
    assert spent(COST, [], [{"tokens": 1.0}, {"tokens": 0.4}], 1.5) == pytest.approx([0.625, 0.125])
    assert spent(COST, [], [], 0.5, 0.8) == pytest.approx([(0.8 + 0.5 * (0.2 + 1.5)) / 4])  # what is replayed runs whole


def told(report):
    console = Console(width=140, record=True, file=StringIO())
    console.print(show.summary(report))
    return re.search(r"all epochs +│ ([0-9.]+%)", console.export_text())[1]


@pytest.mark.parametrize(
    ("options", "expected", "near"),
    [
        ({"method": "full", "epochs": 0.5}, 1.0, 1e-9), ({"method": "full", "epochs": 1.5}, 1.0, 1e-9),
        ({"epochs": 1.5, "cost": 0.4}, 0.4, 0.1), ({"epochs": 0.5, "cost": 0.45}, 0.45, 0.4),
    ],
)  # fmt: skip
def test_a_run_says_one_number(base, tmp_path, options, expected, near):  # noqa: F811
    chosen = {} if "method" in options else {"kind": "groups", "select": "auto", "per": "auto", "density": 0.125}
    said = []
    config = base.replace(batch_size=4, **chosen, **options)
    report = train(replace(config, output=str(tmp_path / "o")), said.append)
    assert report.epochs == pytest.approx(options["epochs"])
    paid = sum(report.spent) / options["epochs"]
    assert paid == pytest.approx(expected, rel=near)
    assert told(report) == f"{paid:.1%}"
    page = (Path(tmp_path) / "o" / "report.html").read_text()
    assert f"Paid over all epochs: {paid:.1%}"[:-3] in page.replace("\u202f", "").replace(" %", "%")
    for line in report.examples[:1]:
        assert line["examples"] == 1 and not any("of the examples read" in it for it in said[:1])
    missed = any(it.startswith("cost: ") for it in said)
    assert missed == (report.planned != [] and abs(paid / expected - 1) > 0.05)
    assert sum(report.planned) == pytest.approx(expected * options["epochs"] if report.planned else 0)


def test_it_says_where_the_cost_was_missed():
    cost = {"forward": 1.0, "full": 3.0, "input_gradients": 1.0, "weight_gradients": 1.0, "layers": {"a": 1.5}}
    pace = Pace({}, cost, 0.5, 1.0, [1] * 8)
    assert pace.missed_by([0.51]) == "" and pace.missed_by([0.6]).startswith(
        "cost: 60.0% of full fine-tuning's FLOPs in place of 50.0%"
    )
