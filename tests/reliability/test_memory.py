"""What a run holds does not grow with its data, and nothing of it is left on the disk or in a cache."""

import json
import subprocess
import sys
import tempfile
import tracemalloc
from dataclasses import replace

import pytest
from interruption import press_ctrl_c
from tiny_runs import silent
from tiny_task import save_model, texts, write_jsonl

from clm_kernels.cli.predict import _texts
from clm_kernels.finetune import train
from clm_kernels.finetune.config import Data
from clm_kernels.finetune.spooling import spooled
from clm_kernels.finetune.tasks import TASKS

FEW, MANY = 1_000, 30_000
PROMISED = 300e6 / 1e6  # bytes for each further text
SLACK = 12e6  # what a process may take for other reasons: pools of threads and of allocators

TRAIN = """
import json, resource
from clm_kernels.finetune import TrainConfig, train

def peak(rows):
    options = json.loads({options!r}) | {{"train": json.loads({data!r})[rows > {few}], "output": {folder!r} + "/out", "overwrite": True}}
    train(TrainConfig(**options, epochs=min(1.0, 64 / rows), batch_size=16, pooling="mean", energy="0.9"), lambda line: None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

print([peak(rows) for rows in ({few}, {few}, {many})])
"""


def test_many_texts_take_little_more_memory_than_few(tmp_path):
    options = {"model": save_model(tmp_path / "model"), "validation": write_jsonl(tmp_path / "validation.jsonl", texts(30, 1))}
    data = [write_jsonl(tmp_path / f"{rows}.jsonl", texts(rows, 0)) for rows in (FEW, MANY)]
    given = {"options": json.dumps(options), "data": json.dumps(data), "folder": str(tmp_path)}
    script = TRAIN.format(**given, few=FEW, many=MANY)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    _, few, many = json.loads(done.stdout.splitlines()[-1])
    assert many - few < PROMISED * (MANY - FEW) + SLACK


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary files go; the cache of datasets is beside it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def left(temporary):
    return [str(path) for folder in (temporary, temporary.parent / "cache") for path in folder.rglob("*")]


def test_nothing_is_left_after_success_and_nothing_has_a_name_while_training(base, temporary, tmp_path):
    seen = []
    train(replace(base, output=str(tmp_path / "out"), epochs=1), lambda line: seen.append(left(temporary)))
    assert seen and not any(seen) and not left(temporary)


def test_nothing_is_left_after_an_error(base, temporary, tmp_path):
    def say(line):
        raise OSError("no more lines")

    with pytest.raises(OSError, match="no more lines"):
        train(replace(base, output=str(tmp_path / "out"), epochs=1), say)
    assert not left(temporary)


def test_nothing_is_left_after_ctrl_c(base, temporary, tmp_path, monkeypatch):
    press_ctrl_c(monkeypatch, step=2)
    with pytest.raises(KeyboardInterrupt):
        train(replace(base, output=str(tmp_path / "out"), epochs=1), silent)
    assert not left(temporary)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left_where_tokenising_stops(temporary, error):
    def chunks():
        yield {"input_ids": [[1, 2]]}
        assert left(temporary)
        raise error

    with pytest.raises(error):
        spooled(chunks())
    assert not left(temporary)


def test_what_is_mapped_outlives_its_file(temporary):
    rows = [[i, i + 1] for i in range(5000)]
    dataset = spooled({"input_ids": rows[i : i + 7], "labels": list(range(i, min(i + 7, 5000)))} for i in range(0, 5000, 7))
    assert not left(temporary)
    assert dataset["input_ids"][:] == rows and dataset[4999] == {"input_ids": rows[-1], "labels": 4999}


def test_a_table_to_predict_is_not_held(tmp_path):
    path = write_jsonl(tmp_path / "data.jsonl", texts(20_000, 0))
    tracemalloc.start()
    try:
        assert sum(1 for _ in _texts(path, TASKS["sequence"], Data())) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_a_table_with_an_error_at_its_end_gets_no_predictions(tmp_path):
    path = write_jsonl(tmp_path / "data.jsonl", [*texts(100, 0), {"text": ""}])
    with pytest.raises(ValueError, match="line 101"):
        next(_texts(path, TASKS["sequence"], Data()))
