"""The examples run as they stand, and what they leave predicts."""

import runpy

import pytest
from places import ROOT
from tiny_task import save_model, texts, write_jsonl

import clm_kernels as clm

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_leaves_a_delta_that_predicts(example, tmp_path):
    if example.stem == "with_lightning":
        pytest.importorskip("lightning", reason="lightning is not installed")
    rows, delta = texts(48, 0), tmp_path / "delta.safetensors"
    model = save_model(tmp_path / "model")
    main = runpy.run_path(str(example))["main"]
    loss = main(model, write_jsonl(tmp_path / "rows.jsonl", rows), str(delta), epochs=6, learning_rate=3e-2)
    assert loss < 0.2
    found = clm.Classifier.load(model, delta).predict([row["text"] for row in texts(30, 1)])
    assert sum(prediction.label == row["label"] for prediction, row in zip(found, texts(30, 1))) > 24
    trained = clm.Delta.load(delta)
    assert trained.selection.count and trained.labels == ["access", "billing", "delivery"]


def test_there_are_two():
    assert [path.stem for path in EXAMPLES] == ["with_accelerate", "with_lightning"]
