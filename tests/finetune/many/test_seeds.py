"""`--seeds`: each is the run that its seed gives alone; the best by validation is kept; a break changes nothing."""

import json
import shutil
import statistics
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from command_line import run
from interruption import press_ctrl_c
from tiny_runs import assert_same, silent, trained_tensors

from clm_kernels.finetune import Classifier, Report, TrainConfig, train
from clm_kernels.finetune.artifacts import REPORT
from clm_kernels.finetune.many import seeds
from clm_kernels.finetune.outputs import RESULTS
from clm_kernels.finetune.run_file import load_run_file

SEEDS = {"epochs": 1, "seeds": 2, "seed": 41, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def several(base, tmp_path_factory):
    said = []
    config = replace(base, **SEEDS, output=str(tmp_path_factory.mktemp("seeds") / "out"))
    return config, train(config, said.append), said


def test_each_is_what_its_seed_gives_alone(base, several, tmp_path):
    output = Path(several[0].run.output)
    alone = train(replace(base, **SEEDS | {"seeds": 1, "seed": 42}, output=str(tmp_path / "alone")), silent)
    assert_same(trained_tensors(output / "seed-42"), trained_tensors(tmp_path / "alone"))
    assert json.loads((output / "seed-42" / "report.json").read_text())["history"] == alone.history
    assert {folder.name for folder in output.glob("seed-*")} == {"seed-41", "seed-42"}
    assert several[2][0] == "seed 41, 1 of 2" and "seed 42, 2 of 2" in several[2]


def test_the_best_by_validation_stands_at_the_top(several):
    config, report, _ = several
    output, best = Path(config.run.output), report.seeds["best"]
    found = {run["seed"]: run for run in report.seeds["runs"]}
    assert found[best]["validation"]["accuracy"] == max(run["validation"]["accuracy"] for run in found.values())
    assert_same(trained_tensors(output), trained_tensors(output / f"seed-{best}"))
    names = {path.name for path in output.iterdir() if path.is_file()}
    assert names == {path.name for path in (output / f"seed-{best}").iterdir()}
    assert json.loads((output / "report.json").read_text())["seeds"] == report.seeds
    assert json.loads((output / "run.json").read_text())["config"]["output"] == str(output) == report.config["output"]
    assert next(iter(Classifier.load(output).predict(["my refund"]))).label
    options = load_run_file(output / "run.yaml").options
    assert (options["seeds"], options["seed"], options["output"], options["pooling"]) == (2, 41, str(output), "mean")


@pytest.mark.parametrize("options", [SEEDS, SEEDS | {"seeds": 1, "search": 2, "density": None, "select": "auto"}])
def test_what_concerns_the_data_is_said_once(base, tmp_path, options):
    if "search" in options:
        pytest.importorskip("optuna")
    said = []
    config = replace(base, **options | {"max_length": 8, "template": "one two {text} three", "output": str(tmp_path / "o")})
    train(replace(config, given=frozenset({"learning_rate", "epochs"})), said.append)
    for of in ("data: warning: ", "train: ", "validation: ", "test: "):
        assert sum(line.startswith(of) for line in said) == 1, (of, said)


def test_the_test_data_chooses_nothing(several):
    """The best by validation, whatever the test says; of equal ones the first."""
    made = replace(several[1], seeds={})
    reports = {}
    for seed, validation, tested in ((1, 0.5, 0.9), (2, 0.8, 0.1), (3, 0.8, 0.2)):
        reports[seed] = replace(
            made, best={"epoch": 1, "step": 2, "train_loss": 1.0, "accuracy": validation}, test={"accuracy": tested}
        )
    assert seeds.best_of(reports) == 2
    told = seeds.told(reports, 2)
    assert told["mean"] == {"validation": {"accuracy": pytest.approx(0.7)}, "test": {"accuracy": pytest.approx(0.4)}}
    assert told["sd"]["test"]["accuracy"] == pytest.approx(statistics.stdev([0.9, 0.1, 0.2]))
    reports[3] = replace(reports[3], test=None)
    assert seeds.told(reports, 2)["mean"].keys() == {"validation"}


def test_a_break_and_a_resumption_change_nothing(several, tmp_path, monkeypatch):
    """In the second seed, whose first steps are lost: the first seed is not trained again."""
    config = replace(several[0], output=str(tmp_path / "out"))
    with monkeypatch.context() as context:
        press_ctrl_c(context, 8)
        with pytest.raises(KeyboardInterrupt):
            train(config, silent)
    assert (tmp_path / "out" / "seed-41" / "report.json").is_file() and not (tmp_path / "out" / "report.json").exists()
    shown = run("train", "--resume", "--output", tmp_path / "out", "--seeds", "3")
    assert shown.exit_code == 2 and "seeds must be 2 as in the run to resume, got 3" in shown.stderr
    with monkeypatch.context() as context:
        context.setattr("clm_kernels.finetune.run_file._sha256", lambda path: "another")
        with pytest.raises(ValueError, match=r"^train: model must be what .*run.yaml was written with, got .* which has changed"):
            train(TrainConfig(output=str(tmp_path / "out"), resume=True), silent)
    made = (tmp_path / "out" / "seed-41" / "delta.safetensors").stat().st_mtime_ns
    resumed = train(TrainConfig(output=str(tmp_path / "out"), resume=True), silent)
    assert (tmp_path / "out" / "seed-41" / "delta.safetensors").stat().st_mtime_ns == made
    assert resumed.seeds == several[1].seeds
    assert_same(trained_tensors(tmp_path / "out"), trained_tensors(several[0].run.output))
    with pytest.raises(ValueError, match=r"got '.*out', which is finished$"):
        train(TrainConfig(output=str(tmp_path / "out"), resume=True), silent)


def test_overwriting_takes_the_seeds_away_and_nothing_else(base, several, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(several[0].run.output, output)
    (output / "seed-42" / "notes.txt").write_text("mine")
    (output / "seed-notes").mkdir()
    (output / "seed-notes" / "report.json").write_text("mine")
    train(replace(base, epochs=0.2, output=str(output), overwrite=True), silent)
    assert sorted(path.name for path in output.glob("seed-*")) == ["seed-42", "seed-notes"]
    assert [path.name for path in (output / "seed-42").iterdir()] == ["notes.txt"]
    assert (output / "seed-notes" / "report.json").read_text() == "mine" and {"run.yaml", "trials.csv"} <= {*RESULTS}


def test_a_run_that_stands_where_a_seed_is_to_be_trained_is_none_of_them(base, tmp_path):
    own = replace(base, epochs=1, output=str(tmp_path / "o"))
    train(own, silent)
    train(own.replace(output=str(tmp_path / "o" / "seed-42")), silent)
    with pytest.raises(
        ValueError, match=r"^train: output must be a folder without runs of others, got .* with 'seed-42'; move it$"
    ):
        train(own.replace(seeds=2, overwrite=True), silent)
    assert (tmp_path / "o" / REPORT).is_file() and (tmp_path / "o" / "seed-42" / REPORT).is_file()


def test_a_mistake_leaves_nothing(several, tmp_path):
    with pytest.raises(ValueError, match="backward must be at least"):
        train(replace(several[0], kind="rows", backward=1e-9, output=str(tmp_path / "o")), silent)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [({"seeds": 0}, "seeds must be 1 or more, got 0"), ({"search": 2}, "search must be left out with seeds, got 2")],
)
def test_what_cannot_be(several, tmp_path, options, told):
    with pytest.raises(ValueError, match=f"^train: {told}"):
        train(replace(several[0], **options, output=str(tmp_path / "o")), silent)


def test_under_torchrun(several, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"^train: seeds and search must be left out under torchrun"):
        train(replace(several[0], output=str(tmp_path / "o")), silent)


def test_the_report_of_a_finished_seed_is_read_as_it_was(several, tmp_path):
    content = json.loads((Path(several[0].run.output) / "report.json").read_text())
    report = Report.load(Path(several[0].run.output) / "report.json")
    assert json.loads(json.dumps(asdict(report))) == content
    for wrong in ({"best": {"f1": 0.5}}, {"best": []}, {"test": 1}, {"another": 1}):
        (tmp_path / "report.json").write_text(json.dumps(content | wrong))
        with pytest.raises(ValueError, match=r"^load: '.*report.json' must be the report of a run"):
            Report.load(tmp_path / "report.json")


def test_the_table_and_the_line(several, monkeypatch):
    from clm_kernels.cli import show

    found = show.essence(several[1], "out")
    mean, sd = (several[1].seeds[what]["test"]["accuracy"] for what in ("mean", "sd"))
    assert f"test accuracy {mean:.4f} ± {sd:.4f} (2 seeds), kept: seed {several[1].seeds['best']}: out" in found
    table = show.seeds(several[1].seeds, "accuracy")
    assert table.row_count == 4
