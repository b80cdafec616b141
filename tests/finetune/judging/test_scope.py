"""Texts that are about none of the labels: what tells them, where it is kept, how they are marked."""

import gc
import json
import math
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import batch as batch_of
from models import build
from tiny_runs import base, finished, silent  # noqa: F401
from typer.testing import CliRunner

import clm_kernels as clm
from clm_kernels.cli import app
from clm_kernels.finetune import train
from clm_kernels.finetune.artifacts import SCOPE
from clm_kernels.finetune.files import read_rows
from clm_kernels.finetune.judging.scope import Scope, drawn, kept_features
from clm_kernels.finetune.outputs import recorded_config
from clm_kernels.models.structure import base_model
from clm_kernels.tensors import read_tensors, write_tensors

TEXTS = ["where is my parcel", "paris rome anna bob lives in meets smith paris", "password"]


@pytest.fixture(scope="module")
def output(finished):  # noqa: F811
    return Path(finished[0].run.output)


@pytest.fixture
def classifier(output):
    return clm.Classifier.load(output)


def on_circle(*degrees):
    return torch.tensor([[math.cos(math.radians(each)), math.sin(math.radians(each))] for each in degrees])


def test_a_text_is_as_near_as_the_nearest_mean():
    found = Scope.fit(on_circle(0, 20, 90) * torch.tensor([[5.0], [1], [1]]), torch.tensor([0, 0, 1]), on_circle(10, 30), 3)
    torch.testing.assert_close(found.means, torch.cat([on_circle(10, 90), torch.zeros(1, 2)]))
    expected = [math.cos(math.radians(each)) for each in (0, 30, 10)]
    torch.testing.assert_close(found.scores(7 * on_circle(10, 40, 80)), torch.tensor(expected))


@pytest.mark.parametrize(("rows", "below"), [(100, 4), (40, 1), (10, 0), (1, 0)])
def test_at_least_95_percent_of_the_validation_texts_stay(rows, below):
    degrees = torch.linspace(0, 80, rows).tolist()
    found = Scope.fit(on_circle(0, 0), torch.tensor([0, 0]), on_circle(*degrees), 1)
    outside = found.scores(on_circle(*degrees)) < found.threshold
    assert int(outside.sum()) == below and found.rows == rows
    assert found.kept == pytest.approx(1 - below / rows) and found.kept >= 0.95


def test_the_means_are_of_as_many_texts_of_each_label():
    labels = [0] * 900 + [1] * 80 + [2] * 20
    assert drawn(labels, 1000) == list(range(1000))
    chosen = drawn(labels, 150)
    assert [sum(labels[i] == label for i in chosen) for label in range(3)] == [50, 50, 20]
    assert chosen == drawn(labels, 150) != list(range(50))


def test_features_are_what_the_head_reads(classifier):
    batch = classifier.tokenizer(TEXTS, padding=True, return_tensors="pt").to(classifier.model.device)
    read = []
    hook = classifier.model.classifier.register_forward_pre_hook(lambda module, args: read.append(args[0].detach().cpu()))
    with kept_features(classifier.model) as features:
        classifier.model(**batch)
    hook.remove()
    torch.testing.assert_close(features[0], read[0])
    classifier.model(**batch)
    assert len(features) == 1


@pytest.mark.parametrize("family", ["bert", "modernbert", "llama", "gpt2", "deberta"])
def test_features_of_any_family_do_not_depend_on_padding(family):
    model = build(family).eval()
    ids = torch.arange(5, 25).reshape(2, 10)
    wide = {"input_ids": torch.cat([ids, torch.full((2, 4), 3)], 1), "attention_mask": torch.tensor([[1] * 10 + [0] * 4] * 2)}
    model.config.pad_token_id = 3
    with torch.no_grad(), kept_features(model) as features:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
        model(**wide)
        states = base_model(model)(input_ids=ids)[0]
    torch.testing.assert_close(features[0], states.mean(1))
    torch.testing.assert_close(features[0], features[1], rtol=1e-4, atol=1e-5)


def test_no_hidden_states_stay_of_texts_that_run_within_a_replay():
    model = build()
    clm.patch(model, clm.Selection())
    seen = []
    with clm.replay(model, max_bytes=0), kept_features(model) as features, torch.no_grad():
        base_model(model).register_forward_hook(lambda module, given, output: seen.append(weakref.ref(output[0])))
        for _ in range(2):
            model(**batch_of(model))
            gc.collect()
        assert len(features) == 2 and len(seen) == 4 and sum(each() is not None for each in seen) == 1


def test_where_tokens_are_left_out_the_first_is_taken():
    class Base(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return (input_ids[:, ::2, None].float(),)

    class Model(torch.nn.Module):
        base_model_prefix = "base"

        def __init__(self):
            super().__init__()
            self.base = Base()

        def forward(self, **inputs):
            return self.base(**inputs)

    model = Model()
    with kept_features(model) as features:
        model(input_ids=torch.tensor([[4, 5, 6, 0]]), attention_mask=torch.ones(1, 4))
    assert features[0].tolist() == [[4.0]]


def test_train_leaves_it_and_reports_it(output, classifier):
    scope = classifier.scope
    told = json.loads((output / "report.json").read_text())["scope"]
    assert told == {"threshold": scope.threshold, "rows": 18, "kept": scope.kept} and scope.means.shape[0] == 3
    lines = Path(recorded_config(output).data.validation).read_text().splitlines()
    found = list(classifier.predict([json.loads(line)["text"] for line in lines], out_of_scope=True))
    assert sum(not prediction.out_of_scope for prediction in found) == round(18 * scope.kept)


def test_each_labels_mean_is_that_of_its_training_texts(output, classifier):
    rows = [row for _, row in read_rows(recorded_config(output).data.train)]
    with kept_features(classifier.model) as features:
        for row in rows:
            classifier.predict_proba([row["text"]])
    numbers = torch.tensor([classifier.label_names.index(row["label"]) for row in rows])
    expected = Scope.fit(torch.cat(features), numbers, torch.cat(features), len(classifier.label_names)).means
    torch.testing.assert_close(classifier.scope.means, expected, rtol=1e-4, atol=1e-5)


def test_texts_out_of_scope_have_no_label(classifier):
    plain = list(classifier.predict(TEXTS))
    found = list(classifier.predict(TEXTS, batch_size=2, out_of_scope=True))
    assert [prediction.out_of_scope for prediction in found] == [False, True, False]
    assert [prediction.label for prediction in found] == [plain[0].label, None, plain[2].label]
    assert [prediction.best[0][0] for prediction in found] == [prediction.label for prediction in plain]
    assert len(next(classifier.predict(TEXTS, top=2, out_of_scope=True)).best) == 2
    assert classifier.predict(TEXTS[1], out_of_scope=True).out_of_scope
    assert not hasattr(plain[0], "out_of_scope")


def test_the_program_marks_them(output, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    words = ["predict", "--model", str(output), str(tmp_path / "texts.txt"), "--out-of-scope"]
    run = CliRunner().invoke(app, words)
    assert [line.split("\t")[0] for line in run.stdout.splitlines()] == ["delivery", "(out of scope)", "access"]
    assert run.stderr.startswith("out of scope below a cosine of ") and "of 18 validation texts are not" in run.stderr
    rows = [json.loads(line) for line in CliRunner().invoke(app, [*words, "--jsonl"]).stdout.splitlines()]
    assert [(row["label"], row["out_of_scope"]) for row in rows] == [("delivery", False), (None, True), ("access", False)]


def test_it_goes_along_with_an_export(classifier, tmp_path):
    classifier.export(tmp_path / "plain")
    again = clm.Classifier.load(tmp_path / "plain")
    assert again.scope.threshold == classifier.scope.threshold and torch.equal(again.scope.means, classifier.scope.means)
    assert [p.out_of_scope for p in again.predict(TEXTS, out_of_scope=True)] == [False, True, False]


def test_without_it_marking_is_refused(classifier):
    classifier.scope = None
    with pytest.raises(ValueError, match=rf"^predict: out_of_scope must be left out for tags, and where no {SCOPE} is kept"):
        classifier.predict(TEXTS, out_of_scope=True)


@pytest.mark.parametrize(
    ("means", "changes"),
    [
        (torch.zeros(4, 2), {}),
        (torch.zeros(3, 2, dtype=torch.float64), {}),
        (torch.zeros(3), {}),
        (torch.zeros(3, 2), {"threshold": "NaN"}),
        (torch.zeros(3, 2), {"threshold": "null"}),
        (torch.zeros(3, 2), {"rows": "0"}),
        (torch.zeros(3, 2), {"kept": "2.0"}),
    ],
)
def test_a_file_of_another_classifier_is_refused(tmp_path, means, changes):
    Scope(torch.zeros(3, 2), 0.5, 9, 1.0).save(tmp_path)
    _, told = read_tensors(tmp_path / SCOPE, "test")
    assert Scope.beside(tmp_path, 3).rows == 9 and Scope.beside(tmp_path / "nowhere", 3) is None
    write_tensors(tmp_path / SCOPE, {"means": means}, told | changes)
    with pytest.raises(ValueError, match=r"^Classifier.load: .*scope.safetensors"):
        Scope.beside(tmp_path, 3)


def test_an_altered_file_is_refused(output, tmp_path):
    content = bytearray((output / SCOPE).read_bytes())
    content[-1] ^= 1
    (tmp_path / SCOPE).write_bytes(content)
    with pytest.raises(ValueError, match="has been altered"):
        Scope.beside(tmp_path, 3)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last"])
def test_what_a_replayed_head_has_read_tells_the_same(base, pooling, tmp_path):  # noqa: F811
    config = replace(base, output=str(tmp_path / "o"), method="head", pooling=pooling, epochs=1)
    train(config, silent)
    classifier = clm.Classifier.load(config.run.output)
    with kept_features(classifier.model) as features:
        classifier.predict_proba([row["text"] for _, row in read_rows(config.data.validation)])
    near = classifier.scope.scores(torch.cat(features))
    assert abs(near - classifier.scope.threshold).min() < 1e-6
    assert float((near > classifier.scope.threshold - 1e-6).double().mean()) == classifier.scope.kept
