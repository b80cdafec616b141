"""Whole runs beside each other: their table from made-up results, and the command on tiny data."""

import pytest
from tiny_grid import result, stored, tiny_settings, write_tasks

from benchmarks import training
from benchmarks.tasks.run import Runner
from benchmarks.tasks.store import Store


def run(test, validations, epochs, selecting=1.0, **more):
    made = result(test, **more)
    made["history"] = [{"step": i, "validation": score} for i, score in enumerate(validations)]
    made["seconds"] |= {"selecting": selecting, "epochs": epochs, "training": sum(epochs)}
    return made


FULL = run(0.8, [0.5, 0.7, 0.75], [10.0, 12.0, 11.0], flops=400)
OURS = run(0.79, [0.6, 0.76, 0.74], [4.0, 4.0, 4.0], flops=100)
HEAD = run(0.6, [0.5, 0.5, 0.5], [1.0, 1.0, 1.0], flops=40)


def test_seconds_are_counted_from_choosing_on():
    assert training.curve(FULL) == ([11.0, 23.0, 34.0], [50.0, 70.0, 75.0])
    assert (training.until(OURS, 75.0), training.until(FULL, 75.0), training.until(HEAD, 75.0)) == (9.0, 34.0, None)


def test_the_table():
    rows = training.table({"full": [FULL, FULL], "groups": [OURS, OURS], "head_replay": [HEAD, FULL]})[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0][1:] == ["80.0", "+0.0", "1.00", "1.00", "34", "34", "33", "0"]
    assert cells[1] == ["ours, dealt groups", "79.0", "-1.0", "0.25", "0.36", "9", "9", "12", "0"]
    assert cells[2][1:7] == ["70.0", "-10.0", "0.55", "0.55", "18", "1 of 2 do"]


def test_the_picture(tmp_path):
    training.picture({"banking77": {"full": [FULL], "groups": [OURS]}, "snips_slots": {"full": [FULL]}}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_the_methods_take_turns_and_a_second_call_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CLM_KERNELS_DATA", str(write_tasks(tmp_path / "data")))
    model = tiny_settings(tmp_path / "model").model
    options = {"tasks": "banking77", "methods": "full,head_replay", "seeds": 2, "train_size": 24, "epochs": 2, "batch_size": 8}
    training.main(**options, model=model, results=tmp_path / "results", draw_only=False)
    lines = stored(tmp_path / "results")
    assert [line["cell"]["method"] for line in lines] == ["full", "head_replay"] * 2
    assert [len(line["seconds"]["epochs"]) for line in lines] == [2] * 4
    assert {path.suffix for path in (tmp_path / "results").iterdir()} == {".jsonl", ".md", ".png"}
    monkeypatch.setattr(Runner, "_start", None)  # nothing is left to start
    training.main(**options, model=model, results=tmp_path / "results", draw_only=False)
    assert "| head only, replayed |" in capsys.readouterr().out


def test_refusals(tmp_path):
    for methods in ("groups", "full,magic"):
        with pytest.raises(SystemExit, match="training: methods must be among"):
            training.main("banking77", methods, results=tmp_path)


def test_every_method_has_a_rate(tmp_path):
    store = Store(tmp_path, tiny_settings(tmp_path / "model"))
    cells = [cell for cell, done in training.Turns(["banking77", "snips_slots"], list(training.WAYS), 2, 2, None).cells(store)]
    assert len(cells) == 4 * len(training.WAYS) and all(1e-5 < cell.learning_rate < 0.1 for cell in cells)
    assert {cell.learning_rate for cell in cells if cell.method == "cost_33"} == {1e-3, 3e-3}
