"""Exports of classifiers whose texts may have several labels: the graph, its client and the card give the labels of `predict`."""

import json
from dataclasses import replace

import numpy as np
import pytest
from shipped import TEXTS, classifier

from clm_kernels.finetune.shipping import onnx_client
from clm_kernels.finetune.shipping.onnx_folder import export_onnx
from clm_kernels.finetune.split import Split

WORDS = ("my", "parcel", "refund", "login", "is", "late", "please", "charged", "twice", "password")
MORE = [*TEXTS, *(" ".join(WORDS[i : i + 1 + i % 4]) for i in range(len(WORDS)))]


@pytest.fixture(scope="module")
def made():
    """Probabilities away from a half, and a threshold for each label that some texts reach and others do not."""
    made = classifier(task="multilabel")
    made.calibration = replace(made.calibration, temperature=1.7)
    shares = np.sort(made.predict_proba(MORE), 0)
    least = (shares[5] + shares[6]) / 2
    made.calibration = replace(made.calibration, thresholds=(*least[:2].tolist(), 0.999))
    counts = {len(one.label) for one in made.predict(MORE)}
    assert counts >= {0, 1, 2}  # else the tests below say little
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
