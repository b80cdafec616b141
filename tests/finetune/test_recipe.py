"""`train` from end to end on tiny models: what it leaves, methods, mistakes."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import CONFIGS
from safetensors.torch import load_file
from tiny_runs import FAST, assert_same, silent, trained_tensors
from tiny_task import save_model, sentences, texts, tokenizer, write_data, write_jsonl
from transformers import AutoModel, AutoModelForSequenceClassification, BertForMaskedLM
from transformers.models.bert.modeling_bert import BertLayer

from clm_kernels import Delta, Entries, Selection
from clm_kernels.finetune import Classifier, TrainConfig, train
from clm_kernels.finetune.beginning import choose_selection
from clm_kernels.finetune.trainer import EpochSampler, RunTrainer

# What a run leaves


def test_it_learns(finished):
    _, report = finished
    assert report.test["accuracy"] > 0.8


def test_what_stands_in_the_folder(finished):
    config, report = finished
    output = Path(config.run.output)
    names = {path.name for path in output.iterdir()}
    assert names == {"config.json", "delta.safetensors", "report.html", "report.json", "run.json", "run.yaml", "selection.safetensors",
                     "selection.png", "scope.safetensors", "sensitivity.safetensors", "tokenizer.json",
                     "tokenizer_config.json"}  # fmt: skip
    assert json.loads((output / "config.json").read_text())["id2label"] == {"0": "access", "1": "billing", "2": "delivery"}
    written = json.loads((output / "report.json").read_text())
    assert written["test"] == report.test
    assert written["sizes"]["delta"] == (output / "delta.safetensors").stat().st_size < written["sizes"]["checkpoint"]
    assert (
        sum(line["selected_entries"] for line in written["selection"]) == Selection.load(output / "selection.safetensors").count
    )
    delta = Delta.load(output / "delta.safetensors")
    assert delta.labels == ["access", "billing", "delivery"]
    assert (delta.recipe.task, delta.recipe.pooling, delta.recipe.model) == ("sequence", "mean", Path(config.data.model).name)


def test_only_the_selection_biases_norms_and_head_have_moved(finished):
    config, report = finished
    before = load_file(Path(config.data.model) / "model.safetensors")
    after = Classifier.load(config.run.output).model.base_model.state_dict()
    selection = Selection.load(Path(config.run.output) / "selection.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for name, tensor in before.items():
        entries = selection.get(f"bert.{name}")
        if entries is not None:
            changed = (after[name] != tensor).flatten().nonzero().flatten()
            assert changed.numel() > 0
            assert torch.isin(changed, entries.flat_index()).all()
        elif tensor.dim() > 1:
            assert torch.equal(after[name], tensor), name
    assert report.trained < 0.5 * report.parameters


def test_the_best_checkpoint_by_validation_is_kept(finished):
    _, report = finished
    scores = [line["accuracy"] for line in report.history]
    assert len(scores) == 3
    assert report.best == report.history[scores.index(max(scores))]


def test_test_data_never_chooses(base, tmp_path):
    """Another test file, with turned labels, changes the test score and nothing else."""
    wrong = {"access": "billing", "billing": "delivery", "delivery": "access"}
    turned = write_jsonl(tmp_path / "turned.jsonl", [{**row, "label": wrong[row["label"]]} for row in texts(18, 2)])
    outputs = {str(tmp_path / name): test for name, test in (("0", base.data.test), ("1", turned), ("2", ""))}
    reports = [train(replace(base, output=output, test=test), silent) for output, test in outputs.items()]
    assert reports[0].best == reports[1].best == reports[2].best
    assert reports[0].test["accuracy"] > reports[1].test["accuracy"]
    assert reports[2].test is None
    assert_same(trained_tensors(tmp_path / "0"), trained_tensors(tmp_path / "1"))


def test_the_reported_scores_are_the_saved_models(finished):
    config, report = finished
    classifier = Classifier.load(config.run.output)
    for part, scores in (("validation", report.best), ("test", report.test)):
        rows = [json.loads(line) for line in Path(config.options()[part]).read_text().splitlines()]
        found = [prediction.label for prediction in classifier.predict([row["text"] for row in rows])]
        assert sum(label == row["label"] for label, row in zip(found, rows, strict=True)) / len(rows) == scores["accuracy"]


def test_the_best_weights_are_saved_not_the_last(base, tmp_path):
    report = train(replace(base, output=str(tmp_path / "o"), learning_rate=0.03, scheduler="constant"), silent)
    assert report.best["accuracy"] > report.history[-1]["accuracy"]
    rows = [json.loads(line) for line in Path(base.data.validation).read_text().splitlines()]
    predictions = Classifier.load(tmp_path / "o").predict([row["text"] for row in rows])
    right = sum(prediction.label == row["label"] for prediction, row in zip(predictions, rows, strict=True))
    assert right / len(rows) == report.best["accuracy"]


def test_every_epoch_has_its_own_order_of_examples():
    lengths = [1, 5, 3, 2, 4] * 8
    orders = []
    for epoch in (0, 1, 0):
        sampler = EpochSampler(4, lengths, seed=3)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == list(range(40))


def test_same_seed_same_result(finished, tmp_path):
    config, report = finished
    again = train(replace(config, output=str(tmp_path / "again")), silent)
    assert again.history == report.history
    assert_same(trained_tensors(config.run.output), trained_tensors(tmp_path / "again"))


def test_validation_is_carved_and_recorded(base, tmp_path):
    report = train(replace(base, output=str(tmp_path / "o"), validation="", epochs=1), silent)
    assert report.data["validation"]["carved_from"] == base.data.train
    assert report.data["train"]["rows"] + report.data["validation"]["rows"] == 48


# Methods and tasks


def test_the_head_alone(base, tmp_path, monkeypatch):
    run, forward = [], BertLayer.forward
    monkeypatch.setattr(
        BertLayer, "forward", lambda self, x, *args, **given: run.append(len(x)) or forward(self, x, *args, **given)
    )
    report = train(replace(base, output=str(tmp_path / "o"), method="head", test=""), silent)
    texts = report.data["train"]["rows"] + report.data["validation"]["rows"]  # which calibration and scope read again
    assert sum(run) <= 2 * (texts + 3)  # layers; three texts tell what a forward costs
    delta = Delta.load(tmp_path / "o" / "delta.safetensors")
    assert set(delta.whole) == {"classifier.weight", "classifier.bias"}
    assert not delta.selection
    assert report.trained == 3 * 32 + 3


def test_everything(base, tmp_path):
    report = train(replace(base, output=str(tmp_path / "o"), method="full", pooling="native", learning_rate=5e-3), silent)
    assert report.trained == report.parameters
    assert not (tmp_path / "o" / "delta.safetensors").exists()
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "o")
    ours = Classifier.load(tmp_path / "o").model
    assert_same(plain.state_dict(), ours.state_dict())


@pytest.mark.parametrize("family", ["distilbert", "roberta", "modernbert", "qwen3", "gpt2"])
def test_other_families(family, tmp_path):
    config = TrainConfig(
        model=save_model(tmp_path / "model", family), output=str(tmp_path / "o"), **write_data(tmp_path, count=16)
    )
    report = train(replace(config, **FAST | {"epochs": 1, "pooling": "auto"}), silent)
    assert len(list(Classifier.load(config.run.output).predict(["my refund", "the parcel please"]))) == 2
    assert report.selection


def test_words_and_tags(tmp_path):
    config = TrainConfig(model=save_model(tmp_path / "model"), output=str(tmp_path / "o"), **write_data(tmp_path, sentences))
    report = train(replace(config, **FAST), silent)
    assert report.best_by == "f1"
    assert report.test["f1"] > 0.9
    (prediction,) = Classifier.load(config.run.output).predict([["Anna", "Smith", "lives", "in", "Rome"]])
    assert prediction.label == ["B-PER", "I-PER", "O", "O", "B-LOC"]
    assert all(0 < probability <= 1 for probability in prediction.probability)


def test_cut_words_are_said_counted_and_left_untagged(tmp_path):
    config = TrainConfig(model=save_model(tmp_path / "model"), output=str(tmp_path / "o"), **write_data(tmp_path, sentences))
    lines = []
    report = train(replace(config, **FAST | {"max_length": 8}), silent)
    assert report.cut == {"train": 0, "validation": 0, "test": 0}
    long = write_jsonl(tmp_path / "long.jsonl", [{"tokens": ["Anna", "lives"] * 5, "tags": ["B-PER", "O"] * 5}] * 3)
    report = train(replace(config, **FAST | {"max_length": 8, "epochs": 6}, output=str(tmp_path / "p"), test=long), lines.append)
    assert report.cut["test"] == 3 * 4
    assert any("test: 12 words cut off at 8 tokens; cut-off words count as missed" in line for line in lines)
    assert report.test["recall"] <= 3 / 5
    (prediction,) = Classifier.load(tmp_path / "p").predict([["Anna", "lives"] * 5])
    assert prediction.label[6:] == prediction.probability[6:] == [None] * 4


def test_a_pooler_that_the_checkpoint_lacks_is_part_of_the_head(base, tmp_path):
    """A base without a pooler gets one at random: it must travel in the delta, or nothing could ever apply it."""
    make, sizes = CONFIGS["bert"]
    BertForMaskedLM(make(**sizes, pad_token_id=0, max_position_embeddings=32)).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    config = replace(base, model=str(tmp_path / "model"), output=str(tmp_path / "o"), pooling="native", epochs=1)
    train(config, silent)
    delta = Delta.load(tmp_path / "o" / "delta.safetensors")
    assert {"bert.pooler.dense.weight", "bert.pooler.dense.bias"} < set(delta.whole)
    first, second = (list(Classifier.load(tmp_path / "o").predict(["my refund"])) for _ in range(2))
    assert first == second


# Selections


def test_a_selection_from_a_file(base, finished, tmp_path):
    config, _ = finished
    selection, _ = choose_selection(base)
    assert selection == Selection.load(Path(config.run.output) / "selection.safetensors")
    selection.save(tmp_path / "s.safetensors")
    train(replace(base, output=str(tmp_path / "o"), selection=str(tmp_path / "s.safetensors")), silent)
    assert_same(trained_tensors(tmp_path / "o"), trained_tensors(config.run.output))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("other.weight", (32, 32), "is not a weight of this model"),
        ("bert.encoder.layer.0.output.dense.weight", (8, 8), "must have shape"),
    ],
)
def test_a_selection_for_another_model(base, tmp_path, name, shape, message):
    Selection({name: Entries.of("rows", [0], shape)}).save(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match=message):
        train(replace(base, output=str(tmp_path / "o"), selection=str(tmp_path / "s.safetensors")), silent)
    assert not (tmp_path / "o").exists()


def test_fewer_layers(base, tmp_path):
    report = train(replace(base, output=str(tmp_path / "o"), layers="upper half", epochs=1), silent)
    assert {line["name"].split(".")[3] for line in report.selection} == {"1"}


# Mistakes


BAD = {
    "density": (0, 1.5, -1, float("nan")),
    "epochs": (0, -1),
    "batch_size": (0,),
    "learning_rate": (0, -1.0),
    "weight_decay": (-0.1,),
    "warmup": (1, -0.1),
    "method": ("prefix",),
    "kind": ("elements",),
    "layers": ("lower half",),
    "scheduler": ("zigzag",),
    "max_length": (4,),
    "validation_fraction": (0, 1),
    "patience": (0,),
    "model": ("", "no/such/folder"),
    "train": ("", "no_such_file.jsonl"),
    "output": ("",),
    "selection": ("no_such_file.safetensors",),
    "report_to": ("nowhere",),
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_bad_values(base, tmp_path, field, value):
    config = replace(base, **{"output": str(tmp_path / "o"), field: value})
    with pytest.raises(ValueError, match=f"{field}|{re.escape(str(value))}" if value else field) as caught:
        train(config, silent)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()


def test_a_folder_that_is_no_model(base, tmp_path):
    (tmp_path / "model").mkdir()
    config = replace(base, output=str(tmp_path / "o"), model=str(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"a directory with a config\.json"):
        train(config, silent)
    for content in ("{", "{}", '{"model_type": "nothing"}', '{"model_type": "bert"}'):
        (tmp_path / "model" / "config.json").write_text(content)
        with pytest.raises(
            ValueError, match=r"^\w+: .*model.* must be (a config|a JSON object|of a model_type|a model for sequence)"
        ) as caught:
            train(config, silent)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()


def test_a_checkpoint_with_a_hole(base, tmp_path):
    from safetensors.torch import save_file

    shutil.copytree(base.data.model, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"a whole checkpoint, got one without 'bert.encoder.layer.1.output.dense.weight'"):
        train(replace(base, output=str(tmp_path / "o"), model=str(tmp_path / "model")), silent)


def test_an_output_with_something_in_it_is_left_alone(base, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="output must be a new or empty folder"):
            train(replace(base, output=str(tmp_path / "o"), overwrite=overwrite), silent)
    with pytest.raises(ValueError, match="output must be a folder"):
        train(replace(base, output=str(tmp_path / "o" / "thesis.txt")), silent)
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["thesis.txt"]


def test_overwrite_replaces_a_run_and_nothing_else(base, tmp_path):
    config = replace(base, output=str(tmp_path / "o"), epochs=1)
    train(config, silent)
    (tmp_path / "o" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="overwrite replaces it"):
        train(config, silent)
    train(replace(config, overwrite=True, method="full"), silent)
    assert not (tmp_path / "o" / "delta.safetensors").exists()
    assert (tmp_path / "o" / "notes.txt").read_text() == "mine"


def test_a_failure_leaves_nothing_behind(base, tmp_path, monkeypatch):
    monkeypatch.setattr(RunTrainer, "training_step", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(replace(base, output=str(tmp_path / "o")), silent)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_gets_advice(base, tmp_path, monkeypatch, error):
    def training_step(*args, **kwargs):
        raise error

    monkeypatch.setattr(RunTrainer, "training_step", training_step)
    with pytest.raises(RuntimeError, match="out of memory; try a batch_size below 8") as caught:
        train(replace(base, output=str(tmp_path / "o")), silent)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_in_float16_needs_another_type(base, tmp_path):
    model = tmp_path / "half"
    shutil.copytree(base.data.model, model)
    AutoModel.from_pretrained(base.data.model, dtype=torch.float16).save_pretrained(model)
    config = replace(base, model=str(model), output=str(tmp_path / "o"), epochs=1)
    with pytest.raises(ValueError, match=r"train: dtype must be float32 or bfloat16, as small gradients .*, got 'auto'"):
        train(config, silent)
    train(replace(config, dtype="float32"), silent)
    assert Delta.load(tmp_path / "o" / "delta.safetensors").recipe.dtype == "float32"
