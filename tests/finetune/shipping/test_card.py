"""The card of an export: what the hub reads of it, scores with intervals, no path of a machine."""

import json

import pytest
from huggingface_hub import ModelCard
from shipped import classifier

from clm_kernels.finetune.shipping.card import wilson, write_card

CONFIG = {
    "model": "/home/me/models/minilm",
    "train": "/home/me/train.csv",
    "output": "/home/me/out",
    "method": "sparse",
    "seed": 7,
    "cost": None,
}
REPORT = {
    "config": CONFIG, "trained": 1000, "parameters": 20000, "cut": {"train": 3, "test": 0}, "made_on": {"torch": "2.13.0", "platform": "Linux"},
    "data": {
        "task": "sequence", "train": {"path": "/home/me/train.csv", "rows": 200, "sha256": "ab" * 32},
        "validation": {"carved_from": "/home/me/train.csv", "rows": 20}, "test": {"path": "/home/me/test.csv", "rows": 100, "sha256": "cd" * 32},
    },
    "test": {"loss": 0.3, "accuracy": 0.9, "macro_f1": 0.88},
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text(json.dumps(REPORT))
    return tmp_path / "run"


def card_of(run, kind="checkpoint", made=None):
    folder = run.parent / "shipped"
    folder.mkdir(exist_ok=True)
    write_card(folder, (made or classifier()).served(), kind, run, ["Compared: logits within 2e-07."])
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_hub_reads_its_header(run):
    card_of(run)
    data = ModelCard.load(run.parent / "shipped" / "README.md").data
    assert (data.base_model, data.pipeline_tag, data.library_name, data.license) == (
        "minilm",
        "text-classification",
        "transformers",
        None,
    )
    assert data.metrics == ["accuracy", "macro_f1"]
    assert [(one.metric_type, one.metric_value, one.dataset_name) for one in data.eval_results] == [
        ("accuracy", 0.9, "test.csv"), ("macro_f1", 0.88, "test.csv")
    ]  # fmt: skip


def test_it_tells_scores_data_options_and_limits_and_no_path(run):
    text = card_of(run)
    assert "| accuracy | 90.0% | 82.6% to 94.5% |" in text and "| macro f1 | 88.0% | not computed |" in text
    assert (
        "| train | train.csv | 200 | `abababababababab…` |" in text
        and "| validation | train.csv | 20 | a part of the training file |" in text
    )
    assert 'method: "sparse"' in text and "seed: 7" in text and "cost" not in text
    assert (
        "beyond 24 tokens are cut off" in text
        and "In train, 3 texts were cut off" in text
        and "Compared: logits within 2e-07." in text
    )
    assert all(f"`{label}`" in text for label in ("access", "billing", "delivery"))
    assert "/home" not in text and str(run) not in text


def test_the_bootstraps_intervals_are_taken_where_there_are_some(run):
    folder = run / "evaluation-test"
    folder.mkdir()
    interval = {"score": 0.88, "low": 0.81, "high": 0.93}
    (folder / "evaluation.json").write_text(json.dumps({"data": "/home/me/test.csv", "scores": {"macro_f1": interval}}))
    text = card_of(run)
    assert "| macro f1 | 88.0% | 81.0% to 93.0% |" in text
    (folder / "evaluation.json").write_text(json.dumps({"data": "/home/me/other.csv", "scores": {"macro_f1": interval}}))
    assert "81.0%" not in card_of(run)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("onnx", "class OnnxClassifier"), ("embedding", "SentenceTransformer(FOLDER)"), ("checkpoint", "pipeline(")],
)
def test_it_says_how_it_is_used(run, kind, words):
    assert words in card_of(run, kind)


def test_without_a_report(tmp_path):
    text = card_of(tmp_path / "none", made=classifier(task="token"))
    assert "No test data was given." in text and "pipeline_tag: token-classification" in text and "base_model" not in text


def test_wilson():
    """Wilson 1927; 81 of 263 as in Newcombe 1998, table I."""
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


REPLACED = {
    "config": [1], "trained": "x", "parameters": None, "cut": {"train": "x"}, "made_on": [], "test": {"accuracy": "x"},
    "data": {"test": 5}, "data ": [], "data  ": {"train": {"path": 7}}, "made_on ": {"torch": 2}, "test ": {"accuracy": float("inf")},
}  # fmt: skip


@pytest.mark.parametrize("name", REPLACED)
def test_a_report_of_another_form_is_refused(run, name):
    (run / "report.json").write_text(json.dumps(REPORT | {name.strip(): REPLACED[name]}))
    with pytest.raises(
        ValueError, match=rf"^export: '.*report.json' is incomplete or altered, .*{name.strip()}.*; fetch or make it"
    ):
        card_of(run)
    (run / "report.json").write_text(json.dumps({"config": CONFIG}))
    with pytest.raises(ValueError, match="its trained must be given"):
        card_of(run)


def test_what_is_not_known_is_left_out(run):
    (run / "report.json").write_text(json.dumps(REPORT | {"data": {}, "test": {"accuracy": 7}}))
    assert "| accuracy | 700.0% | not computed |" in card_of(run)


@pytest.mark.parametrize("scores", [[], {"macro_f1": 1}, {"macro_f1": {"low": "x", "high": 1, "score": 1}}], ids=str)
def test_an_evaluation_of_another_form_is_none(run, scores):
    (run / "evaluation-test").mkdir()
    (run / "evaluation-test" / "evaluation.json").write_text(json.dumps({"data": "/home/me/test.csv", "scores": scores}))
    assert "| macro f1 | 88.0% | not computed |" in card_of(run)


def test_words_of_strangers_stay_words(run):
    evil = "a\n\n# Injected [x](http://evil)|`<b>"
    part = {"path": f"/x/{evil.replace('/', '')}", "rows": 3, "sha256": evil}
    changed = {
        "made_on": {evil: evil}, "cut": {evil: 3}, "test": {evil: 0.5}, "config": {evil: evil, "template": evil},
        "data": {"train": part, "test": part},
    }  # fmt: skip
    (run / "report.json").write_text(json.dumps(REPORT | changed))
    text = card_of(run)
    assert not any(line.lstrip().startswith("# Injected") for line in text.splitlines())
    body = text.split("---", 2)[2]
    outside = [line for line in body.splitlines() if not line.startswith("template: ")]  # which is quoted in a block of code
    assert not any("[x]" in line.replace("\\[", "") or "<b>" in line.replace("\\<", "") for line in outside)
    assert all(line.replace("\\|", "").count("|") in (4, 5) for line in outside if line.startswith("| "))
    assert ModelCard.load(run.parent / "shipped" / "README.md").data.eval_results[0].metric_type == evil
