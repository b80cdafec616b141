"""`--search`: trials see the validation data alone; what is given is held; a break changes nothing; the best is kept."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from interruption import press_ctrl_c
from tiny_runs import assert_same, silent, trained_tensors

from clm_kernels.finetune import TrainConfig, recipe, train
from clm_kernels.finetune.many.search import Range, proposed, space_of
from clm_kernels.finetune.many.trials import Trial, read_trials, write_trials
from clm_kernels.finetune.run_file import load_run_file
from clm_kernels.finetune.tasks import TASKS

pytest.importorskip("optuna")
OPEN = {"epochs", "learning_rate", "density"}


@pytest.fixture(scope="module")
def searched(base, tmp_path_factory):
    """Of one epoch a trial, which is given; `replace` counts what it sets as given, so that is taken back."""
    config = replace(base, learning_rate=None, epochs=1, search=3, output=str(tmp_path_factory.mktemp("search") / "out"))
    config = replace(config, given=frozenset({"epochs"}))
    seen = []
    one = recipe.begin

    def begin(config, *rest):
        seen.append(config.data.test)
        return one(config, *rest)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(recipe, "begin", begin)
        return config, train(config, silent), seen


def test_trials_never_see_the_test_data(searched):
    _, report, seen = searched
    assert seen[:3] == ["", "", ""] and seen[3].endswith("test.jsonl") and len(seen) == 4
    assert report.test["accuracy"] >= 0 and len(report.search["trials"]) == 3


def test_the_best_is_kept_and_is_a_plain_run(searched, tmp_path):
    config, report, _ = searched
    output = Path(config.run.output)
    trials, best = report.search["trials"], report.search["trials"][report.search["best"] - 1]
    assert best["validation"] == max(trial["validation"] for trial in trials) == report.best["accuracy"]
    assert best | {"epochs": 1} == best | {name: report.config[name] for name in ("learning_rate", "density", "epochs")}
    assert not list(output.glob("trial-*")) and json.loads((output / "report.json").read_text())["search"] == report.search
    file = load_run_file(output / "run.yaml").options
    assert (file["search"], file["learning_rate"], file["density"]) == (0, best["learning_rate"], best["density"])
    alone = {name: best[name] for name in ("learning_rate", "density")}
    train(replace(config, search=0, output=str(tmp_path / "o"), **alone), silent)
    assert_same(trained_tensors(output), trained_tensors(tmp_path / "o"))
    with open(output / "trials.csv") as table:
        lines = list(csv.DictReader(table))
    assert [float(line["validation"]) for line in lines] == [trial["validation"] for trial in trials]


def test_a_break_and_a_resumption_change_nothing(searched, tmp_path, monkeypatch):
    config = replace(searched[0], output=str(tmp_path / "out"), given=frozenset({"epochs"}))
    with monkeypatch.context() as context:
        press_ctrl_c(context, 8)  # in the second trial
        with pytest.raises(KeyboardInterrupt):
            train(config, silent)
    assert len((tmp_path / "out" / "trials.csv").read_text().splitlines()) == 2
    said = []
    resumed = train(TrainConfig(output=str(tmp_path / "out"), resume=True), said.append)
    assert said[0].startswith("trial 2 of 3: ")
    for one, other in zip(resumed.search["trials"], searched[1].search["trials"], strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    assert_same(trained_tensors(tmp_path / "out"), trained_tensors(searched[0].run.output))


def test_what_is_given_is_held():
    task = TASKS["sequence"]
    space = space_of(TrainConfig(search=9), (), task)
    assert space == {
        "learning_rate": Range(1e-3, 1e-4, 1e-2), "density": Range(1 / 8, 1 / 32, 1 / 2), "epochs": Range(5, 3, 10)
    }  # fmt: skip
    assert space["epochs"].whole and not space["density"].whole
    assert space_of(TrainConfig(search=9), {"epochs", "backward"}, task).keys() == {"learning_rate"}
    assert space_of(TrainConfig(search=9, method="head"), {"epochs"}, task)["learning_rate"].start == 1e-2
    assert space_of(TrainConfig(search=9, method="full"), (), TASKS["token"]).keys() == {"learning_rate", "epochs"}
    assert space_of(TrainConfig(search=9, cost=0.4), (), task).keys() == {"learning_rate"}
    assert space_of(TrainConfig(search=9, skip=0.1, epochs=2), (), task)["epochs"] == Range(2, 2, 4)
    with pytest.raises(
        ValueError, match=r"^train: search must be left out where learning rate, density and epochs are given, got 9"
    ):
        space_of(TrainConfig(search=9), OPEN, task)


def test_proposals_begin_with_the_defaults_and_lie_within():
    space = {"learning_rate": Range(1e-3, 1e-4, 1e-2), "epochs": Range(5, 3, 10)}
    trials = []
    for _ in range(14):
        options = proposed(space, trials, 7)
        assert all(space[name].low <= value <= space[name].high for name, value in options.items())
        assert isinstance(options["epochs"], int) and options == proposed(space, trials, 7)
        trials.append(Trial(options, -abs(options["epochs"] - 9), 1.0))
    assert trials[0].options == {"learning_rate": 1e-3, "epochs": 5}
    assert len({trial.options["learning_rate"] for trial in trials}) > 10
    assert proposed(space, trials[:3], 8) != proposed(space, trials[:3], 7)


def test_the_table_reads_back_exactly(tmp_path):
    trials = [
        Trial({"learning_rate": 0.1 + 0.2, "epochs": 3}, 2 / 3, 1.25),
        Trial({"learning_rate": 1e-5, "epochs": 4}, 0.0, 2.0),
    ]
    write_trials(tmp_path / "t.csv", trials)
    found = read_trials(tmp_path / "t.csv", ("learning_rate", "epochs"))
    assert [(trial.options, trial.score) for trial in found] == [(trial.options, trial.score) for trial in trials]
    assert [type(value) for value in found[0].options.values()] == [float, int]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "another table"), ("trial,epochs,validation,seconds\n1,2,3,4\n", "another table"),
        ("trial,learning_rate,validation,seconds\n1,2,3\n", "another table"),
        ("trial,learning_rate,validation,seconds\n1,x,3,4\n", "something else"),
        ("trial,learning_rate,validation,seconds\n1,inf,3,4\n", "something else"),
    ],
)  # fmt: skip
def test_another_table_is_refused(tmp_path, content, told):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError, match=rf"^train: .*t.csv' must be .*, got {told}$"):
        read_trials(tmp_path / "t.csv", ("learning_rate",))


def test_the_table_of_trials(searched):
    from clm_kernels.cli import show

    assert show.search(searched[1].search).row_count == 3
    assert show.search(searched[1].search, most=2).caption == "1 more in trials.csv"


def test_without_optuna_it_says_what_to_install(searched, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RuntimeError, match=r'the package optuna is needed: pip install "clm-kernels\[search\]"'):
        train(replace(searched[0], output=str(tmp_path / "o")), silent)
    assert not (tmp_path / "o").exists()
