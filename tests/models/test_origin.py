"""By what a base is known: not by what a task, a head or a tokenizer adds to it."""

import pytest
import torch
from models import build
from torch import nn

from clm_kernels.fingerprint import SAMPLE, sampled
from clm_kernels.models.origin import ROWS, base_fingerprint

LARGE = {"vocab_size": ROWS + 44}
MIDDLE = "bert.encoder.layer.1.attention.self.key"


@pytest.fixture
def model():
    return build(**LARGE)


def test_stays_what_it_was():
    """Deltas on disk hold it: another rule would refuse every one of them."""
    layer = nn.Linear(8, 1024)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(layer.weight.numel()).view_as(layer.weight))
        layer.bias.copy_(torch.arange(1024))
    assert base_fingerprint(layer) == "c2eae6a9aad1a39e0619f218c2b85dcf"


@pytest.mark.parametrize(
    "change",
    [
        lambda model: nn.init.normal_(model.classifier.weight),
        lambda model: nn.init.normal_(model.bert.pooler.dense.weight),
        lambda model: model.resize_token_embeddings(ROWS + 51),
        lambda model: setattr(model, "classifier", nn.Linear(32, 9)),
    ],
    ids=["head", "pooler", "further rows", "further labels"],
)
def test_what_is_no_part_of_it_does_not_count(model, change):
    before = base_fingerprint(model)
    change(model)
    assert base_fingerprint(model) == before


@pytest.mark.parametrize("name", [f"{MIDDLE}.bias", f"{MIDDLE}.weight", "bert.embeddings.word_embeddings.weight"])
def test_any_weight_of_it_counts(model, name):
    before = base_fingerprint(model)
    with torch.no_grad():
        model.get_parameter(name)[1] += 1
    assert base_fingerprint(model) != before
    assert base_fingerprint(model, {name}) == base_fingerprint(build(**LARGE), {name})


def test_the_dtype_counts_and_a_model_without_data_has_none(model):
    before = base_fingerprint(model)
    assert base_fingerprint(model.bfloat16()) != before
    assert base_fingerprint(model.to("meta")) == ""


@pytest.mark.parametrize("shape", [(384, 384), (1536, 384), (1024, 4096), (4096, 11008), (512, 28672)])
def test_the_sample_comes_by_every_column(shape):
    """Weights of which a few columns were trained are others."""
    weight = torch.zeros(shape)
    before = sampled([weight])
    for column in range(0, shape[1], 41):
        weight[:, column : column + 8] = 1
        assert sampled([weight]) != before
        weight.zero_()


def test_small_tensors_count_whole():
    for size in (1, SAMPLE):
        tensor = torch.zeros(size)
        before = sampled([tensor])
        tensor[-1] = 1
        assert sampled([tensor]) != before
    assert len({sampled([torch.zeros(shape)]) for shape in (4, (2, 2), (4, 1), (1, 4))}) == 4


def test_the_class_above_it_does_not_count():
    """Names have another beginning there."""
    model = build()
    assert base_fingerprint(model) == base_fingerprint(model.bert)
