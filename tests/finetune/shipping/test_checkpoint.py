"""Checkpoints for plain transformers: what `pipeline` makes of them, and what is refused."""

import pytest
import torch
from shipped import SENTENCES, TEXTS, classifier
from transformers import AutoModelForSequenceClassification, pipeline

from clm_kernels.finetune.shipping import checkpoint
from clm_kernels.finetune.shipping.served import unlabelled
from clm_kernels.models.portable import MODULE


@pytest.mark.parametrize(
    ("family", "pooling"),
    [("bert", "cls"), ("bert", "native"), ("albert", "cls"), ("distilbert", "cls"), ("modernbert", "mean"), ("llama", "last")],
)
def test_a_pipeline_gives_the_same_without_any_code(family, pooling, tmp_path):
    made = classifier(family, pooling)
    expected = list(made.predict(TEXTS))
    assert made.export(tmp_path, rows=unlabelled(TEXTS)) <= 1e-5
    assert not list(tmp_path.glob("*.py"))
    found = pipeline("text-classification", model=str(tmp_path), trust_remote_code=False, device="cpu")(TEXTS)
    assert [one["label"] for one in found] == [one.label for one in expected]
    assert [one["score"] for one in found] == pytest.approx([one.probability for one in expected], rel=1e-5)


def test_a_pipeline_tags(tmp_path):
    made = classifier(task="token")
    expected = [one.label for one in made.predict(SENTENCES)]
    made.export(tmp_path)
    found = pipeline("token-classification", model=str(tmp_path), device="cpu", ignore_labels=[])([" ".join(SENTENCES[0])])
    assert [one["entity"] for one in found[0]] == expected[0]


def test_the_model_in_memory_stays_as_it_is(tmp_path):
    made = classifier("bert", "cls")
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    made.export(tmp_path)
    assert made.model.config.clm_pooling == "cls"
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.model.state_dict().items())


@pytest.mark.parametrize(("by", "refused"), [(1e-3, True), (1e-7, False)])
def test_other_logits_are_refused_with_the_row(by, refused, tmp_path, monkeypatch):
    real = checkpoint._read

    def read(served, folder):
        model = real(served, folder)
        model.classifier.bias.data += by
        return model

    monkeypatch.setattr(checkpoint, "_read", read)
    made = classifier()
    if not refused:
        assert 0 < made.export(tmp_path / "o", rows=unlabelled(TEXTS)) <= 1e-5
        return
    said = r"^export: logits of the exported checkpoint must be within 1e-05 of the trained model's on all of 3 texts, got a difference of 0.001 at text \d$"
    with pytest.raises(ValueError, match=said):
        made.export(tmp_path / "o", rows=unlabelled(TEXTS))
    assert not any((tmp_path / "o").iterdir())


def test_other_tokens_are_refused(tmp_path, monkeypatch):
    def read(folder):
        found = real(folder)
        found.backend_tokenizer.normalizer = None
        return found

    real = checkpoint.read_tokenizer
    monkeypatch.setattr(checkpoint, "read_tokenizer", read)
    with pytest.raises(ValueError, match=r"^export: the tokens of text 1 must be the same"):
        classifier().export(tmp_path / "o", rows=unlabelled(["REFUND"]))


def test_the_code_that_is_written_is_what_is_compared(tmp_path, monkeypatch):
    """Broken on purpose: a file whose model pools otherwise."""
    made, real = classifier("bert", "mean"), checkpoint.save_portable

    def save(model, folder):
        real(model, folder)
        file = folder / f"{MODULE}.py"
        file.write_text(file.read_text().replace('if pooling == "mean":', 'if pooling == "none":'))

    monkeypatch.setattr(checkpoint, "save_portable", save)
    with pytest.raises(ValueError, match="logits of the exported checkpoint must be"):
        made.export(tmp_path / "o")


def test_half_precision_is_held_to_its_rounding(tmp_path):
    made = classifier("bert", "cls", dtype=torch.bfloat16)
    made.export(tmp_path)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16
