"""ONNX graphs: the same logits at other sizes than those traced, read again with numpy and tokenizers alone, or refused by name."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blocked import python
from shipped import SENTENCES, TEXTS, classifier

from clm_kernels.finetune.shipping import onnx_client, onnx_folder
from clm_kernels.finetune.shipping.onnx_folder import export_onnx
from clm_kernels.finetune.shipping.served import unlabelled
from clm_kernels.finetune.split import Split
from clm_kernels.models.mixing import mix_layers

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

FAMILIES = ("bert", "mpnet", "distilbert", "roberta", "modernbert", "llama", "deberta")


def exported(made, folder, rows=None, **options):
    return export_onnx(made.served(), folder, rows, **options)


@pytest.mark.parametrize(("family", "pooling"), list(zip(FAMILIES, ("mean", "max", "cls", "last", "mean", "last", "native"))))
def test_the_graph_gives_the_trained_models_probabilities(family, pooling, tmp_path):
    made = classifier(family, pooling)
    (found,) = exported(made, tmp_path / "o").values()
    assert found.difference < 1e-5 and found.same == 1 and found.score is None
    client = onnx_client.OnnxClassifier(tmp_path / "o", threads=1)
    for texts in (TEXTS, TEXTS[:1], TEXTS[1:2] * 5):
        expected = list(made.predict(texts))
        assert [label for label, _ in client.predict(texts)] == [one.label for one in expected]
        assert [share for _, share in client.predict(texts)] == pytest.approx([one.probability for one in expected], rel=1e-4)


def test_a_tagger_and_what_is_cut_off(tmp_path):
    made = classifier(task="token")
    exported(made, tmp_path / "o")
    client = onnx_client.OnnxClassifier(tmp_path / "o")
    pieces = [[f"{word}{end}" for word in ("bob", "parcel", "refund", "login", "anna", "smith")] for end in ("s", "ing")]
    sentences = [*SENTENCES, ["parcel"] * 30, *pieces]
    assert client.tag(sentences) == [one.label for one in made.predict(sentences)]
    assert client.tag(sentences)[2][-1] is None
    with pytest.raises(ValueError, match="use tag, with lists of words"):
        client.predict(["anna lives"])
    with pytest.raises(ValueError, match="must be lists of words"):
        client.tag(["anna lives"])


CLIENT = """
sys.path.insert(0, {folder!r})
from onnx_client import OnnxClassifier
print(json.dumps(OnnxClassifier({folder!r}).predict({texts!r})))
"""


def test_it_is_read_without_torch_transformers_and_this_package(tmp_path):
    made = classifier(clm_template="my {text} please")
    made.calibration = replace(made.calibration, temperature=2.0)
    exported(made, tmp_path)
    (tmp_path / "onnx_client.py").write_text(Path(onnx_client.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    script = "import json, sys" + CLIENT.format(folder=str(tmp_path), texts=TEXTS)
    run = python(script, ["torch", "transformers", "clm_kernels"])
    assert run.returncode == 0, run.stderr
    expected = list(made.predict(TEXTS))
    found = json.loads(run.stdout)
    assert [label for label, _ in found] == [one.label for one in expected]
    assert [share for _, share in found] == pytest.approx([one.probability for one in expected], rel=1e-4)


def test_labels_pooling_and_the_rest_stand_in_the_graph(tmp_path):
    made = classifier("bert", "max")
    exported(made, tmp_path / "o")
    told = onnx_client.OnnxClassifier(tmp_path / "o").told
    assert json.loads(told["labels"]) == made.label_names
    assert (told["pooling"], told["task"], told["template"], told["max_length"]) == ("max", "sequence", "{text}", "24")


def test_int8_reports_what_it_costs(tmp_path):
    made = classifier()
    labels = [one.label for one in made.predict(TEXTS)]
    labels[0] = next(name for name in made.label_names if name != labels[0])
    found = exported(made, tmp_path / "o", Split("rows", TEXTS, labels, ["a", "b", "c"]), int8=True)
    assert list(found) == ["model.onnx", "model.int8.onnx"]
    plain, small = found.values()
    assert plain.score == plain.trained_score == small.trained_score == pytest.approx(2 / 3)
    assert plain.difference < 1e-5 < small.difference and small.milliseconds.keys() == {"torch", "onnx"}
    a, b = (onnx_client.OnnxClassifier(tmp_path / "o", name).session for name in found)
    types = [{each.name: each.type for each in session.get_outputs()} for session in (a, b)]
    assert types[0] == types[1] == {"logits": "tensor(float)", "probabilities": "tensor(float)"}


def test_other_logits_are_refused_with_the_row(tmp_path, monkeypatch):
    real = onnx_folder.by_session
    monkeypatch.setattr(onnx_folder, "by_session", lambda session: lambda batch: real(session)(batch) + np.float32(0.01))
    with pytest.raises(
        ValueError, match=r"^export: logits of model.onnx must be within 0.0001 .* a difference of 0.01 at text \d$"
    ):
        exported(classifier(), tmp_path / "o", unlabelled(TEXTS))
    assert not any((tmp_path / "o").iterdir())


def test_a_mix_of_layers_is_refused_as_a_plain_export_refuses_it(tmp_path):
    made = classifier()
    mix_layers(made.model, "test")
    with pytest.raises(ValueError, match="must be one whose head reads the last layer alone, got one that mixes all layers"):
        exported(made, tmp_path / "o")


def test_a_model_that_cannot_be_traced_is_refused_by_name(tmp_path):
    """DeBERTa v1's traced graph holds the length that it was traced with."""
    with pytest.raises(ValueError, match=r"^export: onnx must be left out for DebertaForSequenceClassification, got"):
        exported(classifier("deberta-v1", "mean"), tmp_path / "o")
