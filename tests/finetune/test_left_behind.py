"""What a run's delta says of the machine, and what a run remembers of its data for whoever predicts."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from command_line import run
from tiny_runs import base, finished, silent  # noqa: F401
from tiny_task import texts, write_jsonl

from clm_kernels import Classifier, Delta
from clm_kernels.finetune import train
from clm_kernels.finetune.artifacts import DELTA
from clm_kernels.finetune.config import Data
from clm_kernels.finetune.outputs import recorded_columns


@pytest.fixture(scope="module")
def renamed(base, tmp_path_factory):  # noqa: F811
    """A run whose texts stand in a column "query", and a file of such texts."""
    folder = tmp_path_factory.mktemp("renamed")
    rows = [{"query": row["text"], "label": row["label"]} for row in texts(24, 0)]
    file = write_jsonl(folder / "q.jsonl", rows)
    config = replace(base, train=file, validation=file, test="", text_column="query", epochs=1, output=str(folder / "out"))
    train(config, silent)
    return Path(config.run.output), file


def test_a_delta_names_no_place_of_the_machine(base, finished):  # noqa: F811
    path = Path(finished[0].run.output) / DELTA
    recipe = Delta.load(path).recipe
    assert recipe.model == Path(base.data.model).name and recipe.details["config"]["train"] == "train.jsonl"
    assert not [text for text in json.dumps(asdict(recipe)).split('"') if text.startswith("/")]
    for place in (base.data.model, finished[0].run.output):
        assert str(Path(place).parent).encode() not in path.read_bytes()


def test_the_base_is_found_by_the_record_of_the_run(finished):  # noqa: F811
    assert Classifier.load(finished[0].run.output).predict("my refund").label


def test_predict_and_evaluate_remember_the_columns(renamed, tmp_path):
    output, file = renamed
    result = run("predict", "--model", output, file)
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 24
    assert Classifier.load(output).columns["text_column"] == "query"
    model = json.loads((output / "run.json").read_text())["config"]["model"]
    assert Classifier.load(model, output / DELTA).columns["text_column"] == "query"
    judged = run("evaluate", output, file, "--output", tmp_path / "judged", "--draws", 2)
    assert judged.exit_code == 0, judged.stderr


def test_another_column_can_be_named(renamed, tmp_path):
    table = write_jsonl(tmp_path / "t.jsonl", [{"text": "my refund"}])
    refused = run("predict", "--model", renamed[0], table)
    assert refused.exit_code == 2 and "a column 'query' (--text-column names another), got 'text'" in refused.stderr
    assert run("predict", "--model", renamed[0], table, "--text-column", "text").exit_code == 0


def test_train_names_the_options_of_columns(renamed, base, tmp_path):  # noqa: F811
    refused = run("train", "--model", base.data.model, "--train", renamed[1], "--output", tmp_path / "out")
    assert refused.exit_code == 2 and "--text-column, --label-column" in refused.stderr


def test_every_column_of_a_run_is_remembered():
    """A new one in `Data` too: `predict` and `evaluate` read what was trained on, whatever the task."""
    named = {spec.name for spec in fields(Data) if spec.name.endswith("_column")} | {"label_separator"}
    assert recorded_columns(dict.fromkeys(named, "x")).keys() == named
