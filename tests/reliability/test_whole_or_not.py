"""A delta is applied wholly or not at all: whatever fails in the middle, the model and its config are as they were."""

import pytest
from models import build
from subjects import SMALL, grown_delta, state

import clm_kernels as clm
from clm_kernels import delta as module
from clm_kernels.models import attention, embedding, pooling
from clm_kernels.models.pooling import set_pooling

LLAMA = SMALL | {"num_key_value_heads": 1, "head_dim": 4}


class Broken(BaseException):
    """Nothing that anybody catches, as Ctrl-C."""


def failing(monkeypatch, holder, name, number, after):
    """The call of this number fails, before or after it has done its work."""
    real, calls = getattr(holder, name), []

    def call(*args, **kwargs):
        calls.append(name)
        if len(calls) != number:
            return real(*args, **kwargs)
        if after:
            real(*args, **kwargs)
        raise Broken(name)

    monkeypatch.setattr(holder, name, call)
    return calls


PLACES = [
    *((module, "_write", number) for number in (1, 2, 3)),
    *((module, "read", number) for number in (3, 4)),  # the first ones are for checking
    (module, "conform", 1),
    (module, "Applied", 1),
    (pooling, "pool_head", 1),
    (pooling, "base_model", 1),
    (pooling, "_unhook", 1),
    (attention, "_hook", 1),
    (attention, "causal", 1),
    (embedding, "_resize", 1),
]
OF_MODEL = [
    "resize_token_embeddings",
    "_resize_token_embeddings",
    "_get_resized_embeddings",
    "set_input_embeddings",
    "tie_weights",
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "place", [*PLACES, *OF_MODEL], ids=lambda place: place if isinstance(place, str) else f"{place[1]} {place[2]}"
)
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_failure_in_the_middle_leaves_no_trace(family, place, after, monkeypatch):
    model = build(family, **(SMALL if family == "bert" else LLAMA))
    delta = grown_delta(model, None if family == "bert" else (0, 1))
    if after and place in [(module, "conform", 1), (pooling, "pool_head", 1)]:
        pytest.skip("what these give is what undoes them")
    before, weight = state(model), model.get_input_embeddings().weight
    numbers = weight.data_ptr()
    with monkeypatch.context() as patched:
        holder, name, number = (model, place, 1) if isinstance(place, str) else place
        calls = failing(patched, holder, name, number, after)
        if family == "bert" and holder is attention:
            pytest.skip("an encoder attends to both sides already")
        with pytest.raises(Broken):
            delta.apply(model)
        assert len(calls) >= number
    vars(model).pop(place, None) if isinstance(place, str) else None
    assert state(model) == before
    assert model.get_input_embeddings().weight is weight and (weight.data_ptr() == numbers or len(weight) == 16)
    applied = delta.apply(model)  # nothing of the failure is remembered
    assert state(model) != before
    applied.restore()
    assert state(model) == before


def test_a_failure_keeps_an_earlier_pooling_and_attention():
    """What was there is put back, not what is usual."""
    model = set_pooling(build("llama", **LLAMA), "max").model
    clm.bidirectional(model, (0, 1))
    delta = grown_delta(model, (0, 1))
    delta.whole["score.weight"] = delta.whole["score.weight"].clone()
    before = state(model)
    with pytest.MonkeyPatch.context() as patched:
        failing(patched, module, "_write", 3, False)
        with pytest.raises(Broken):
            delta.apply(model)
    assert state(model) == before


def test_nothing_grows_before_the_bases_shapes_are_compared(monkeypatch):
    """A delta for a larger base asks the model for nothing."""
    larger, model = build(**SMALL | {"vocab_size": 24}), build(**SMALL)
    delta, before = grown_delta(larger), state(model)
    calls = failing(monkeypatch, embedding, "_resize", 1, False)
    with pytest.raises(ValueError, match=r"^Delta: .* must have shape \(24, 8\) as in the base, got \(16, 8\)$"):
        delta.apply(model)
    assert not calls and state(model) == before


def test_the_state_sees_what_a_delta_changes():
    """Else the tests above would pass on anything."""
    changes = [
        lambda model: model.classifier.weight.data.add_(1),
        lambda model: set_pooling(model, "mean"),
        lambda model: embedding.resize_embedding(model, 17),
        lambda model: setattr(model.config, "vocab_size", 17),
        lambda model: setattr(model.get_input_embeddings(), "padding_idx", None),
        lambda model: model.register_forward_hook(print),
    ]
    for change in changes:
        model = build(**SMALL)
        before = state(model)
        assert state(model) == before
        change(model)
        assert state(model) != before
