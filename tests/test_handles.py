"""Whatever alters a model gives a handle, whose `restore` leaves the model as it was: classes, hooks, config, bits."""

import json

import pytest
import torch
from models import bits, build, same, select, train
from torch import nn

import clm_kernels as clm
from clm_kernels.extension import NewToken
from clm_kernels.handles import Restorable, Undo
from clm_kernels.models.conform import conform
from clm_kernels.models.embedding import resize_embedding
from clm_kernels.models.features import features
from clm_kernels.models.mixing import mix_layers
from clm_kernels.models.pooling import set_pooling
from clm_kernels.models.recomputing import checkpoint_layers, recompute_norms
from clm_kernels.models.structure import depths
from clm_kernels.recipe import Recipe
from clm_kernels.token_groups.embeddings import extend_embeddings
from clm_kernels.token_groups.merging import MergedTokenizer

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
)


def hook_name(hook):
    return getattr(getattr(hook, "func", hook), "__qualname__", repr(hook))


def state(model):
    """All that a handle has to put back; numbers and texts among the modules' attributes too."""
    modules = dict(model.named_modules())
    return {
        "classes": {name: type(module) for name, module in modules.items()},
        "hooks": {
            name: [sorted(map(hook_name, getattr(module, kind).values())) for kind in HOOKS[:3]]
            + [len(getattr(module, kind)) for kind in HOOKS[3:]]
            for name, module in modules.items()
        },
        "attributes": {
            name: {key: value if isinstance(value, (int, str, float, bool)) else key for key, value in vars(module).items()}
            for name, module in modules.items()
        },
        "forwards": {name: vars(module).get("forward") for name, module in modules.items()},
        "config": json.dumps(model.config.to_dict(), sort_keys=True, default=str),
        "requires_grad": {name: parameter.requires_grad for name, parameter in model.named_parameters(remove_duplicate=False)},
    }


def checkpointing(attributes):
    """transformers leaves an empty list of hooks behind, whoever has turned checkpointing on and off."""
    return {name: {k: v for k, v in own.items() if k != "_require_grads_hooks"} for name, own in attributes.items()}


def merged(first):
    tokens = tuple(NewToken(f"text {i}", first + i, (5, 6 + i), False) for i in range(3))
    return MergedTokenizer(None, None, tokens, {})


def delta(model, pooling="mean", layers=None):
    """Of a twin that attends and pools otherwise."""
    twin = build(model.config.model_type)
    set_pooling(twin, pooling)
    if layers:
        clm.bidirectional(twin, layers)
    handle = clm.patch(twin, select(twin, "rows"))
    train(twin, clm.SparseAdamW(twin.parameters(), lr=1e-2), 1)
    return handle.delta()


def adapted(model):
    peft = pytest.importorskip("peft")
    from clm_kernels.finetune.lora import adapt, targets

    return adapt(model, True, peft.LoraConfig(r=2, target_modules=targets(model)))


def upper(model):
    for name, depth in depths(model).items():
        model.get_parameter(name).requires_grad_(depth >= 1)


NOTHING = lambda model: None  # noqa: E731
ALTERED = {  # family, what is done before, what is undone
    "patch": ("bert", NOTHING, lambda model: clm.patch(model, select(model), biases=True)),
    "patch, head alone": ("bert", NOTHING, lambda model: clm.patch(model, clm.Selection())),
    "bidirectional": ("llama", NOTHING, clm.bidirectional),
    "bidirectional, in another range": ("llama", lambda model: clm.bidirectional(model), lambda model: clm.bidirectional(model, (1, 2))),
    "causal": ("llama", lambda model: clm.bidirectional(model), clm.causal),
    "causal, by its config alone": ("llama", lambda model: mark(model, [0, 2], False), clm.causal),
    "restore_attention": ("llama", lambda model: mark(model, [1, 2], None), clm.restore_attention),
    "set_pooling": ("bert", NOTHING, lambda model: set_pooling(model, "mean")),
    "set_pooling, after another": ("llama", lambda model: set_pooling(model, "mean"), lambda model: set_pooling(model, "last")),
    "set_pooling, back to native": ("llama", lambda model: set_pooling(model, "mean"), lambda model: set_pooling(model, "native")),
    "set_pooling, where transformers knows it": ("modernbert", NOTHING, lambda model: set_pooling(model, "mean")),
    "replay": ("bert", upper, clm.replay),
    "pack_batches": ("bert", NOTHING, clm.pack_batches),
    "features": ("bert", lambda model: clm.patch(set_pooling(model, "mean").model, clm.Selection()), features),
    "mix_layers": ("llama", lambda model: set_pooling(model, "last"), mix_layers),
    "recompute_norms": ("llama", NOTHING, recompute_norms),
    "recompute_norms twice": ("llama", lambda model: recompute_norms(model), recompute_norms),
    "checkpoint_layers": ("bert", NOTHING, checkpoint_layers),
    "checkpoint_layers, where it is on": ("bert", lambda model: checkpoint_layers(model), lambda model: checkpoint_layers(model)),
    "resize_embedding": ("bert", NOTHING, lambda model: resize_embedding(model, 70)),
    "resize_embedding, to fewer": ("bert", NOTHING, lambda model: resize_embedding(model, 50)),
    "resize_embedding, tied": ("gpt2-causal", NOTHING, lambda model: resize_embedding(model, 70)),
    "extend_embeddings": ("bert", NOTHING, lambda model: extend_embeddings(model, merged(64))),
    "extend_embeddings, in unused rows": ("bert", NOTHING, lambda model: extend_embeddings(model, merged(62))),
    "Delta.apply": ("bert", NOTHING, lambda model: delta(model).apply(model)),
    "Delta.apply, to both sides": ("llama", NOTHING, lambda model: delta(model, "last", (1, 2)).apply(model)),
    "adapt": ("bert", NOTHING, adapted),
    "adapt, where some is frozen": ("bert", upper, adapted),
    "conform": ("llama", NOTHING, lambda model: conform(model, Recipe(bidirectional=(0, 1), pooling="max"), rows=70)),
    "conform, to a mix": ("llama", NOTHING, lambda model: conform(model, Recipe(pooling="max", mix_layers=True))),
}  # fmt: skip
SILENT = {"checkpoint_layers, where it is on"}  # nothing to see from outside but another function of the same kind


def mark(model, layers, is_causal):
    """As a checkpoint's config has it, before any hook."""
    model.config.clm_bidirectional = layers
    if is_causal is not None:
        model.config.is_causal = is_causal


@pytest.fixture(params=ALTERED)
def altered(request):
    """A model, what is to be done to it, and whether that can be seen."""
    family, before, alter = ALTERED[request.param]
    model = build("gpt2", "causal") if family == "gpt2-causal" else build(family)
    before(model)
    return model, alter, request.param not in SILENT


def same_state(model, before, weights):
    now = state(model)
    for part in before:
        expected, found = (checkpointing(each[part]) if part == "attributes" else each[part] for each in (before, now))
        if part == "forwards":  # partials of one function are not equal
            expected, found = ({name for name, forward in each.items() if forward} for each in (expected, found))
        assert found == expected, part
    assert same(bits(model), weights)


def test_restore_leaves_the_model_as_it_was(altered):
    model, alter, visible = altered
    before, weights = state(model), bits(model)
    handle = alter(model)
    assert isinstance(handle, Restorable) and handle.model is model
    after = state(model)
    assert not visible or any(after[part] != before[part] for part in before) or not same(bits(model), weights)
    handle.restore()
    same_state(model, before, weights)
    handle.restore()
    same_state(model, before, weights)


def test_a_second_restore_leaves_alone_what_came_after_the_first(altered):
    model, alter, _ = altered
    handle = alter(model)
    handle.restore()
    other = alter(model)
    now, weights = state(model), bits(model)
    handle.restore()
    same_state(model, now, weights)
    other.restore()


def test_it_is_a_context_manager_that_restores_after_an_error_too(altered):
    model, alter, _ = altered
    before, weights = state(model), bits(model)
    with pytest.raises(KeyError), alter(model) as handle:
        assert isinstance(handle, Restorable)
        raise KeyError
    same_state(model, before, weights)


def test_restored_in_the_order_of_a_stack():
    model = build("llama")
    before, weights = state(model), bits(model)
    handles = [clm.bidirectional(model), clm.bidirectional(model, (1, 2)), set_pooling(model, "mean"), set_pooling(model, "last")]
    states = []
    for handle in reversed(handles):
        states.append(
            (clm.bidirectional_layers(model), model.config.clm_pooling if "clm_pooling" in vars(model.config) else None)
        )
        handle.restore()
    assert states == [(range(1, 2), "last"), (range(1, 2), "mean"), (range(1, 2), None), (range(2), None)]
    same_state(model, before, weights)


def test_what_has_been_trained_meanwhile_stays():
    model = build()
    handle = clm.patch(model, select(model))
    train(model, clm.SparseAdamW(model.parameters(), lr=1e-2), 1)
    trained = bits(model)
    handle.restore()
    assert same(bits(model), trained) and not same(trained, bits(build()))
    resized = resize_embedding(model, 70)
    with torch.no_grad():
        model.get_input_embeddings().weight[3] = 7
    resized.restore()
    assert bool((model.get_input_embeddings().weight[3] == 7).all())


def test_conform_leaves_the_model_alone_when_a_part_of_it_fails():
    model = build("llama", tie_word_embeddings=False)
    before, weights = state(model), bits(model)
    with pytest.raises(ValueError, match="set_pooling: pooling must be one of"):
        conform(model, Recipe(bidirectional=(0, 1), pooling="first"))
    same_state(model, before, weights)


def test_a_restore_that_fails_can_be_tried_again():
    done, broken = [], [True]

    def fail(model):
        if broken:
            raise RuntimeError("not yet")
        done.append(model)

    handle = Undo("model", fail)
    with pytest.raises(RuntimeError, match="not yet"):
        handle.restore()
    broken.clear()
    handle.restore()
    handle.restore()
    assert done == ["model"]


def test_calls_undo_last_one_first():
    seen = []
    with Undo(nn.Linear(1, 1), lambda model: seen.append(1), lambda model: seen.append(2)) as handle:
        assert isinstance(handle.model, nn.Linear) and not seen
    assert seen == [2, 1]
