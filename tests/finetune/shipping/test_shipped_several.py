"""Exports of classifiers whose texts may have several labels: the graph, its client and the card give the labels of `predict`."""

import json
from dataclasses import replace

import numpy as np
import pytest
from shipped import TEXTS, classifier

from clm_kernels.finetune.judging.keeping import CONFIG_KEY
from clm_kernels.finetune.shipping import onnx_client
from clm_kernels.finetune.shipping.card import write_card
from clm_kernels.finetune.shipping.onnx_folder import export_onnx
from clm_kernels.finetune.split import Split

WORDS = ("my", "parcel", "refund", "login", "is", "late", "please", "charged", "twice", "password")
MORE = [*TEXTS, *(" ".join(WORDS[i : i + 1 + i % 4]) for i in range(len(WORDS)))]


@pytest.fixture(scope="module")
def made():
    """Probabilities away from a half, and a threshold for each label that some texts reach and others do not."""
    return with_thresholds(classifier(task="multilabel"))


def with_thresholds(made):
    made.calibration = replace(made.calibration, temperature=1.7)
    shares = np.sort(made.predict_proba(MORE), 0)
    least = (shares[5] + shares[6]) / 2
    made.calibration = replace(made.calibration, thresholds=(*least[:2].tolist(), 0.999))
    counts = {len(one.label) for one in made.predict(MORE)}
    assert len(counts) > 1  # else the tests below say little
    setattr(made.model.config, CONFIG_KEY, made.calibration.to_dict())
    return made


@pytest.fixture(scope="module")
def found(made, tmp_path_factory):
    """The folder of an ONNX export, and how the graphs do beside the model."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    gold = [sorted(one.label) for one in made.predict(MORE)]
    gold[0] = sorted({*made.label_names} - {*gold[0]})
    folder = tmp_path_factory.mktemp("several") / "o"
    return (
        folder,
        export_onnx(made.served(), folder, Split("rows", MORE, gold, list(map(str, range(len(MORE))))), int8=True),
        gold,
    )


def test_the_client_gives_the_labels_of_predict(made, found):
    client = onnx_client.OnnxClassifier(found[0], threads=1)
    for one, pairs in zip(made.predict(MORE), client.predict(MORE), strict=True):
        assert [label for label, _ in pairs] == one.label
        assert [share for _, share in pairs] == pytest.approx(one.probability, rel=1e-4)
    assert json.loads(client.told["thresholds"]) == list(made.calibration.thresholds)


def test_the_graph_is_compared_by_sets_of_labels_and_scored_by_micro_f1(made, found):
    _, agreements, gold = found
    plain, small = agreements.values()
    assert plain.difference < 1e-5 and plain.same == 1 and plain.scored == small.scored == "micro F1"
    labels = [set(one.label) for one in made.predict(MORE)]
    hits = sum(len(a & set(b)) for a, b in zip(labels, gold))
    assert plain.score == plain.trained_score == pytest.approx(2 * hits / sum(len(a) + len(b) for a, b in zip(labels, gold)))
    assert 1e-5 < small.difference and 0 <= small.same <= 1 and 0 <= small.score <= 1


def test_the_card_speaks_of_several_labels_and_their_thresholds(made, tmp_path):
    write_card(tmp_path, made.served(), "onnx", tmp_path / "none", [])
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "gives texts any number of 3 labels" in text and "one of its labels" not in text
    assert "each label whose calibrated probability reaches" in text and "the sigmoid of the logits alone is not" in text
    for label, least in zip(made.label_names, made.calibration.thresholds, strict=True):
        assert f"| `{label}` | {least:.4f} |" in text


def test_the_cards_example_gives_the_labels_of_predict(tmp_path):
    """With plain transformers, which applies neither the temperature nor a threshold by itself."""
    plain = with_thresholds(classifier(pooling="native", task="multilabel"))
    plain.export(tmp_path / "o")
    write_card(tmp_path / "o", plain.served(), "checkpoint", tmp_path / "none", [])
    code = (tmp_path / "o" / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    names = {"FOLDER": str(tmp_path / "o"), "TEXTS": MORE}
    *lines, last = code.strip().splitlines()
    exec("\n".join(lines), names)
    assert eval(last, names) == [one.label for one in plain.predict(MORE)]
