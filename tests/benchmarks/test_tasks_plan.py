"""What the comparison runs next, and how it chooses learning rates: by validation alone."""

from dataclasses import replace

import pytest
from tiny_grid import RATE, made_up, plan, result, tiny_settings

from benchmarks.tasks.methods import METHODS, PENALTIES
from benchmarks.tasks.plan import LADDER, START, best_rate, next_rates
from benchmarks.tasks.store import Cell, Store


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return tiny_settings(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def store(settings, tmp_path):
    return Store(tmp_path, settings)


def waiting(grid, store):
    return [cell for cell, done in grid.cells(store) if not done]


def test_rates_climb_while_the_best_is_at_an_edge():
    assert next_rates({}) == list(START)
    assert next_rates({START[0]: 0.5}) == list(START[1:])
    middle = dict.fromkeys(START, 0.1)
    assert next_rates({**middle, START[1]: 0.9}) == []
    assert next_rates({**middle, START[0]: 0.9}) == [LADDER[1]]
    assert next_rates({**middle, LADDER[1]: 0.95, START[0]: 0.9}) == [LADDER[0]]
    assert next_rates({**middle, LADDER[0]: 0.99, LADDER[1]: 0.95}) == []
    assert next_rates({**middle, START[-1]: 0.9}) == [LADDER[6]]
    assert best_rate({1e-3: 0.5, 1e-4: 0.5, 3e-3: 0.4}) == 1e-4


def test_tuning_first_then_a_seed_of_each_then_more(store):
    grid = plan(tasks=("banking77", "clinc150"), methods=("full", "lora"), seeds=1, headline_seeds=2)
    first = waiting(grid, store)
    assert first[:5] == [*(Cell("banking77", "full", "tune", 0, rate) for rate in START), None]
    made_up(store, replace(grid, tasks=["banking77"]), lambda task, method, seed: result(0.5))
    store.drop([Cell("banking77", "full", "test", seed, RATE) for seed in (1, 2)])
    order = [(cell.task, cell.method, cell.stage, cell.seed) for cell in waiting(grid, store) if cell]
    assert order[0] == ("banking77", "full", "test", 1)
    assert order[-1] == ("banking77", "full", "test", 2)
    assert order.count(("clinc150", "lora", "tune", 0)) == 4
    assert not any(place[:2] == ("banking77", "lora") for place in order)


def test_the_rate_is_chosen_by_validation_whatever_the_test_says(store):
    grid = plan(methods=("full",), seeds=1, headline_seeds=1)
    for i, rate in enumerate(START):
        store.put(Cell("banking77", "full", "tune", 0, rate), result(test=0.1 * i, validation=0.9 if rate == RATE else 0.2))
        store.put(Cell("banking77", "full", "test", 1, START[-1]), result(test=1.0, validation=1.0))
    assert grid.rates("banking77", "full", store)[0] == RATE
    assert waiting(grid, store) == [Cell("banking77", "full", "test", 1, RATE)]


def test_a_variation_takes_the_rates_of_what_it_varies(store):
    assert {way.rates_of for way in METHODS.values()} - {""} == {"groups", "active", "full", "head"}
    grid = plan(methods=("skip",), seeds=1, headline_seeds=1)
    assert {(cell.method, cell.stage) for cell in waiting(grid, store) if cell} == {("groups", "tune")}
    for rate in START:
        store.put(Cell("banking77", "groups", "tune", 0, rate), result(test=0.1, validation=0.9 if rate == RATE else 0.2))
    assert waiting(grid, store) == [Cell("banking77", "skip", "test", 1, RATE)]


def test_what_has_no_rate_climbs_along_a_ladder_of_its_own(store):
    grid = plan(methods=("embed_logistic",), seeds=1, headline_seeds=1)
    first = PENALTIES[len(PENALTIES) // 2 - 2 :][:4]
    assert waiting(grid, store)[:-1] == [Cell("banking77", "embed_logistic", "tune", 0, c) for c in first]
    for c in first:
        store.put(Cell("banking77", "embed_logistic", "tune", 0, c), result(None, c / 100))
    (further,) = [cell for cell in waiting(grid, store) if cell]
    assert further.learning_rate == PENALTIES[PENALTIES.index(first[-1]) + 1]
    assert ", tune, C " in further.label and ", tune, rate " in replace(further, method="full").label


def test_what_keeps_its_own_rate_is_not_tuned(store, monkeypatch):
    grid = plan(tasks=("banking77", "snips_slots"), methods=("setfit",), seeds=2, tune_on=["banking77", "snips_slots"])
    assert waiting(grid, store) == [Cell("banking77", "setfit", "test", seed, 2e-5) for seed in (1, 2)]
    own = store.key(Cell("banking77", "setfit", "test", 1, 2e-5))
    monkeypatch.setitem(METHODS, "setfit", replace(METHODS["setfit"], given={"num_iterations": 1}))
    assert store.key(Cell("banking77", "setfit", "test", 1, 2e-5)) != own
    tuned = {cell.learning_rate for cell in waiting(replace(grid, methods=["setfit_tuned"]), store) if cell}
    assert tuned == set(START)


def test_tasks_of_a_kind_can_share_the_tuning(store):
    grid = plan(tasks=("clinc150", "goemotions_sentiment", "srl_ewt"), methods=("full",), tune_on=["banking77", "snips_slots"])
    tuned = {cell.task for cell in waiting(grid, store) if cell}
    assert tuned == {"banking77", "snips_slots"}
    assert sum(cell is not None for cell in waiting(grid, store)) == 2 * len(START)
    for rate in START:
        store.put(Cell("banking77", "full", "tune", 0, rate), result(None, 0.9 if rate == RATE else 0.2))
    assert grid.rates("clinc150", "full", store)[0] == grid.rates("goemotions_sentiment", "full", store)[0] == RATE
    assert grid.rates("srl_ewt", "full", store)[0] is None
    with pytest.raises(ValueError, match="tune_on must hold a token task to tune srl_ewt on"):
        plan(tasks=("srl_ewt",), tune_on=["banking77"])
    with pytest.raises(ValueError, match="tasks must be among banking77, "):
        plan(tasks=("nothing",))


def test_several_tuning_tasks_count_alike(store):
    grid = plan(tasks=("goemotions_sentiment",), methods=("full",), tune_on=["banking77", "clinc150"])
    for task, best in (("banking77", START[1]), ("clinc150", START[2])):
        for rate in START:
            lead = 0.9 if task == "clinc150" else 0.8
            store.put(Cell(task, "full", "tune", 0, rate), result(None, lead if rate == best else 0.2))
    assert grid.rates("goemotions_sentiment", "full", store)[0] == START[2]
    store.drop([Cell("clinc150", "full", "tune", 0, START[2])])
    assert grid.rates("goemotions_sentiment", "full", store)[0] is None
    assert waiting(grid, store)[:1] == [Cell("clinc150", "full", "tune", 0, START[2])]


def test_a_rate_that_fails_loses_and_a_method_that_fails_stops(store):
    grid = plan(methods=("full", "lora"), seeds=1, headline_seeds=1)
    for rate in START:
        error = {"error": "ValueError: nan"}
        store.put(
            Cell("banking77", "full", "tune", 0, rate),
            error if rate == START[3] else result(None, rate if rate > START[1] else 0),
        )
    assert grid.rates("banking77", "full", store)[0] == START[2]
    store.put(Cell("banking77", "lora", "tune", 0, START[0]), {"error": "ImportError: no peft"})
    assert grid.rates("banking77", "lora", store)[::2] == (None, [])
    assert [cell.method for cell in waiting(grid, store)] == ["full"]


def test_a_task_that_a_method_cannot_do_is_not_planned(store, monkeypatch):
    monkeypatch.setitem(METHODS, "sparse", replace(METHODS["sparse"], kinds=("sequence",), refusal="no"))
    grid = plan(tasks=("banking77", "snips_slots"), methods=("sparse",))
    assert {cell.task for cell in waiting(grid, store) if cell} == {"banking77"}


def test_other_settings_are_other_cells(store, tmp_path, monkeypatch):
    cell = Cell("banking77", "sparse", "test", 1, 1e-3)
    store.put(cell, result(0.5))
    assert Store(tmp_path, store.settings).get(cell)["test"] == 0.5
    for change in ({"epochs": 3}, {"train_size": 25}, {"options": {"density": 0.2}}, {"max_length": 64}):
        assert Store(tmp_path, replace(store.settings, **change)).get(cell) is None
    monkeypatch.setitem(METHODS, "sparse", replace(METHODS["sparse"], options={"method": "sparse", "kind": "rows"}))
    assert Store(tmp_path, store.settings).get(cell) is None


def test_a_line_cut_off_is_no_result_and_harms_no_other(store):
    whole, cut = (Cell("banking77", "sparse", "test", seed, 1e-3) for seed in (1, 2))
    store.put(whole, result(0.5))
    line = store.file.read_bytes()
    store.file.write_bytes(line + line[: len(line) // 2])
    assert [r["test"] for r in Store(store.folder, store.settings).all()] == [0.5]
    store.file.write_bytes(line[: len(line) // 2] + b"\n" + line)
    again = Store(store.folder, store.settings)
    again.put(cut, result(0.7))
    assert (again.get(whole)["test"], again.get(cut)["test"]) == (0.5, 0.7)
    assert len(Store(store.folder, store.settings).all()) == 2
