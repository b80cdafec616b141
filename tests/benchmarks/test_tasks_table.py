"""Table and pictures of made-up results whose numbers are known."""

import math

import pytest
from tiny_grid import RATE, made_up, plan, result, tiny_settings

from benchmarks import decoder
from benchmarks.tasks import pictures
from benchmarks.tasks.pictures import draw
from benchmarks.tasks.store import Cell, Store
from benchmarks.tasks.summary import interval, paired, summarise
from benchmarks.tasks.table import write_table

SCORES = {
    ("banking77", "full"): (0.80, 0.90), ("banking77", "sparse"): (0.86, 0.90), ("banking77", "random"): (0.85, 0.87),
    ("clinc150", "full"): (0.70, 0.70), ("clinc150", "sparse"): (0.71, 0.73), ("clinc150", "random"): (0.70, 0.70),
    ("snips_slots", "full"): (0.50, 0.60), ("snips_slots", "sparse"): (0.52, 0.56), ("snips_slots", "random"): None,
}  # fmt: skip
COSTS = {"full": 400, "sparse": 100, "random": 100}


def results(task, method, seed):
    if SCORES[task, method] is None:
        return {"error": "ValueError: no such thing"}
    seconds = 8.0 if method == "full" else 2.0 if task == "banking77" else 8.0
    validation = 0.95 if method == "sparse" and seed == 1 else 0.9 if method == "full" else 0.8
    steps = (10, 20, 30, 40)
    return result(SCORES[task, method][seed - 1], validation, COSTS[method], seconds, steps)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    grid = plan(tasks=("banking77", "clinc150", "snips_slots"), methods=("full", "sparse", "random"))
    return made_up(Store(folder / "results", tiny_settings(folder / "model")), grid, results), grid


def lines(text, first):
    return [line for line in text.splitlines() if line.startswith(f"| {first} |")]


def test_the_table_holds_the_numbers(filled):
    text = write_table(*filled, {"cost": "needs TrainConfig.cost = 0.5"}).read_text()
    short, sequence, token, costs = lines(text, "ours, columns")
    assert short == "| ours, columns | **80.0 ± 2.1** | 54.0 ± 2.8 | 1,000 | 0.63 | 0.25 |"
    assert lines(text, "full fine-tuning")[1] == "| full fine-tuning | 85.0 ± 7.1 (80.0) | 70.0 ± 0.0 (70.0) | 77.5 ± 3.5 |"
    assert sequence == "| ours, columns | **88.0 ± 2.8 (86.0)** | **72.0 ± 1.4 (71.0)** | **80.0 ± 2.1** |"
    assert token == "| ours, columns | 54.0 ± 2.8 (52.0) | 54.0 ± 2.8 |"
    assert lines(text, "random selection")[0].startswith("| random selection | 78.0 ± 0.7 | — | 1,000 |")
    assert lines(text, "random selection")[2] == "| random selection | cannot | — |"
    # Time: a quarter on one of three tasks; the head's 100 entries are not counted; one of two seeds validates above 0.9, last.
    assert costs == "| ours, columns | 0.0003 | 1,000 | 0.63 | 0.25 | 100 | 1.00 | 40 | 3 of 6 |"
    assert "| ours, columns against random selection | +2.00 | +1.50" not in text
    assert "- random selection cannot run on snips_slots: ValueError: no such thing" in text
    assert "- ours, half the cost was left out: it needs TrainConfig.cost = 0.5, which that version did not have" in text


def test_differences_are_paired_by_task_and_seed(filled):
    summary = summarise(*filled)
    found = paired(summary, "sparse", "random")
    assert found == {"banking77": pytest.approx([1.0, 3.0]), "clinc150": pytest.approx([1.0, 3.0])}
    mean, low, high = interval(found)
    assert mean == pytest.approx(2.0)
    assert 1.0 <= low < 1.6 and 2.4 < high <= 3.0
    text = write_table(*filled, {}).read_text()
    (line,) = lines(text, "ours, columns against random selection")
    assert line == f"| ours, columns against random selection | +2.00 | {low:+.2f} … {high:+.2f} | yes | 4 over 2 tasks |"


def test_intervals():
    assert interval({"a": [0.5, 0.5], "b": [0.5]}) == pytest.approx((0.5, 0.5, 0.5))
    mean, low, high = interval({"a": [-1.0, 1.0], "b": [-1.0, 1.0, 0.0]})
    assert mean == 0 and low < 0 < high
    of_tasks = interval({"a": [0.0] * 5, "b": [1.0] * 5})  # the tasks are drawn too
    assert of_tasks == pytest.approx((0.5, 0.0, 1.0))


def test_means_are_over_tasks_that_all_have_run(filled, tmp_path):
    store, grid = filled
    part = made_up(Store(tmp_path, store.settings), grid, results)
    part.drop([Cell("clinc150", "random", "test", seed, RATE) for seed in (1, 2)])
    text = write_table(part, grid, {}).read_text()
    assert "mean of 1 of 2 sequence tasks" in text
    assert lines(text, "ours, columns")[1].endswith("| **88.0 ± 2.8** |")
    assert lines(text, "random selection")[1].split("|")[3].strip() == "—"


def test_one_seed_has_no_deviation(filled, tmp_path):
    store, _ = filled
    grid = plan(methods=("full", "sparse"), seeds=1, headline_seeds=1)
    text = write_table(made_up(Store(tmp_path, store.settings), grid, results), grid, {}).read_text()
    assert lines(text, "ours, columns")[1] == "| ours, columns | **86.0, one seed** | **86.0** |"


def test_the_tidy_file_has_a_line_for_each_run(filled):
    store, grid = filled
    write_table(store, grid, {})
    head, *rows = (store.folder / "runs.csv").read_text().splitlines()
    assert len(rows) == 16
    first = dict(zip(head.split(","), rows[0].split(","), strict=True))
    assert (first["task"], first["method"], first["seed"], first["test"]) == ("banking77", "full", "1", "0.8")
    assert (first["learning_rate"], first["seconds"], first["flops"]) == ("0.0003", "8.0", "400")


@pytest.fixture
def figures(monkeypatch):
    kept = {}
    monkeypatch.setattr(pictures.plt, "close", lambda figure: kept.update({len(kept): figure}))
    return kept


def test_the_pictures_show_the_numbers(filled, figures):
    store, grid = filled
    assert [path.name for path in draw(store, grid)] == ["cost.png", "scores.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in store.folder.glob("*.png"))
    cost, scores = figures.values()
    sequence, token = cost.axes
    points = {
        (round(x, 6), round(y, 6)) for x, y in (line.get_xydata()[0] for line in sequence.lines if line.get_marker() in "os^Dv")
    }
    assert {(1.0, 77.5), (0.25, 80.0)} <= points
    assert [text.get_text() for text in cost.legends[0].get_texts()] == ["full fine-tuning", "ours, columns", "random selection"]
    assert token.get_title(loc="left") == "token tasks: mean of 1"
    banking, _, snips = scores.axes
    dots = [line.get_xdata() for line in banking.lines if line.get_marker() == "o"]
    assert [sorted(x) for x in dots] == [pytest.approx(x) for x in ([85.0, 87.0], [86.0, 90.0], [80.0, 90.0])]
    assert sum(line.get_marker() == "o" for line in snips.lines) == 2
    assert banking.get_title(loc="left") == "banking77, accuracy"


def test_a_point_far_below_is_marked_at_the_bottom():
    assert pictures._floor([90.0, 89.0, 88.0, 20.0]) == pytest.approx(90 - 4 * 1.5)
    assert pictures._floor([90.0, 89.0]) == 89.0


def test_nothing_to_draw(filled, tmp_path):
    store, grid = filled
    empty = Store(tmp_path, store.settings)
    assert draw(empty, grid) == []
    assert math.isnan(summarise(*filled).mean(["banking77"], "full")[1]) is False


def test_what_a_decoder_sees_is_put_side_by_side(tmp_path):
    grid, gains = plan(tasks=("snips_slots",), methods=("full", "sparse")), {"none": 0, "upper half": -0.01, "all": 0.05}
    stores = {
        side: made_up(
            Store(tmp_path / "results", tiny_settings(tmp_path / "model", options={"bidirectional": side})),
            grid,
            lambda task, method, seed, gain=gain: result(0.5 + 0.01 * seed + gain + 0.1 * (method == "full")),
        )
        for side, gain in gains.items()
    }
    summaries = {side: summarise(store, grid) for side, store in stores.items()}
    text = decoder.markdown(summaries, stores["none"])
    assert (
        "| full fine-tuning | causal | 0.0003 | 61.5 ± 0.7 |" in text
        and "| ours, columns | both sides | 0.0003 | 56.5 ± 0.7 |" in text
    )
    assert (
        "| upper half | snips_slots | -1.0 | -1.0 … -1.0 |" in text
        and "| both sides | snips_slots | +5.0 | +5.0 … +5.0 |" in text
    )
    assert "bidirectional" not in text
    decoder.draw(summaries, tmp_path / "decoder.png")
    assert (tmp_path / "decoder.png").read_bytes().startswith(b"\x89PNG")


def test_grids_that_tune_with_as_many_texts_share_their_rates(tmp_path):
    small, large = (tiny_settings(tmp_path / "model", **sizes) for sizes in ({}, {"train_size": 40, "tune_size": 24}))
    assert (large.at("tune"), large.at("test").train_size) == (small, 40)
    stored = made_up(Store(tmp_path / "results", small), plan(seeds=1), lambda *_: result(0.8))
    tuned, tested = (Cell("banking77", "full", stage, seed, RATE) for stage, seed in (("tune", 0), ("test", 1)))
    shared = Store(tmp_path / "results", large)
    assert shared.get(tuned) == stored.get(tuned) and stored.get(tested) and shared.get(tested) is None
    shared.put(tested, result(0.9))
    assert [store.get(tested)["test"] for store in (Store(tmp_path / "results", small), shared)] == [0.8, 0.9]
