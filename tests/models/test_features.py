"""`features`: of a frozen base model, what the head reads of each text is computed once, and training goes on as before."""

import models
import pytest
import torch
from models import build
from replays import LAYERS, outcome, part
from tolerances import assert_close

import clm_kernels as clm
from clm_kernels.models.features import Features, features, run_once
from clm_kernels.models.mixing import mix_layers
from clm_kernels.models.pooled_head import POOLED
from clm_kernels.models.pooling import set_pooling
from clm_kernels.models.replay import Replay
from clm_kernels.models.structure import layers_of

NUMBER = 8  # bytes


def headed(family="bert", task="sequence", pooling="mean", mixed=False, **changes):
    """A model of three layers whose head alone is trained."""
    sizes = {LAYERS.get(family, "num_hidden_layers"): 3}
    model = build(family, task, dtype=torch.float64, **sizes, **changes).eval()
    if task == "sequence":
        set_pooling(model, pooling)
    if mixed:
        mix_layers(model)
    clm.patch(model, clm.Selection())
    return model


def batches_of(model, task="sequence"):
    whole = models.batch(model, task=task)
    if task == "token":
        whole["labels"] = whole["labels"].where(whole["attention_mask"] > 0, -100)
    return [whole, part(whole, [2, 0, 1], 9), part(whole, [0], 6), whole]


def assert_same_outcomes(model, batches, kept=features, real=slice(None)):
    expected = [outcome(model, batch) for batch in batches]
    with kept(model) as handle:
        found = [outcome(model, batch) for batch in batches]
        texts, nbytes = handle.texts, handle.nbytes
    for (logits, gradients), (its_logits, its_gradients) in zip(expected, found, strict=True):
        assert_close(its_logits[:, real], logits[:, real])
        assert its_gradients.keys() == gradients.keys() != set()
        for name, gradient in gradients.items():
            assert_close(its_gradients[name], gradient)
    assert torch.equal(outcome(model, batches[0])[0], expected[0][0])  # and taken out again
    return texts, nbytes


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("pooling", POOLED)
@pytest.mark.parametrize("family", models.CONFIGS)
def test_the_head_on_features_in_every_family(family, pooling, mixed):
    model = headed(family, pooling=pooling, mixed=mixed)
    texts, nbytes = assert_same_outcomes(model, batches_of(model))
    width = model.config.hidden_size * (4 if mixed else 1) * NUMBER
    tokens = 5 + 3 * 7  # one of the four texts is padded
    assert (texts, nbytes) == (4, width * (tokens if mixed and pooling == "max" else 4))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("family", [family for family in models.CONFIGS if family not in ("opt", "gemma3", "gptj")])
def test_tags_on_features_in_every_family(family, mixed):
    model = headed(family, "token", mixed=mixed)
    texts, nbytes = assert_same_outcomes(model, batches_of(model, "token"), real=slice(0, 5))
    assert (texts, nbytes) == (4, model.config.hidden_size * (4 if mixed else 1) * NUMBER * 26)


def test_the_base_model_runs_once_for_each_text():
    model, ran = headed(mixed=True), []
    for i, layer in enumerate(layers_of(model)):
        layer.attention.register_forward_hook(lambda module, args, output, i=i: ran.append((i, len(args[0]))))
    batch = models.batch(model)
    with features(model) as kept:
        kept.fill([batch])
        assert ran == [(0, 4), (1, 4), (2, 4)]
        for rows in ([0, 1], [3, 2], [1]):
            model(**part(batch, rows, 8))
        assert len(ran) == 3
        batch["input_ids"][2, 3] += 1
        model(**batch)
        assert ran[3:] == [(0, 1), (1, 1), (2, 1)]  # of a batch with one new text, that text alone
    model(**batch)
    assert len(ran) == 9


def test_nothing_below_the_head_is_dropped_out_and_the_mode_stays():
    model = headed(dropout=0.5, pooling="mean")
    batch = models.batch(model)
    seen = []
    model.dropout.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    model(**batch)
    with features(model.train()) as kept:
        for _ in range(2):
            model(**batch)
        assert model.training and model.dropout.training
        kept.clear()
        model.train()(**batch)
    assert all(module.training for module in model.modules())
    for pooled in seen[1:]:
        assert torch.equal(pooled, seen[0])


def test_what_changes_below_is_seen():
    model = headed()
    batch = models.batch(model)
    with features(model) as kept:
        model(**batch)
        with torch.no_grad():
            layers_of(model)[0].output.dense.weight.mul_(1.5)
        found = model(**batch).logits
        assert kept.texts == 4
    assert_close(found, model(**batch).logits)


def test_a_checkpoint_that_is_loaded_changes_nothing_unless_it_holds_another_base():
    model = headed()
    batch, ran = models.batch(model), []
    layers_of(model)[0].attention.register_forward_hook(lambda *_: ran.append(1))
    with features(model) as kept:
        kept.fill([batch])
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(state)
        model(**batch)
        assert len(ran) == 1
        state["bert.embeddings.LayerNorm.bias"] += 1
        model.load_state_dict(state)
        found = model(**batch).logits
        assert len(ran) == 2
    assert_close(found, model(**batch).logits)


def test_layers_that_attend_to_both_sides():
    model = headed("llama", pooling="cls")
    clm.bidirectional(model)
    assert_same_outcomes(model, batches_of(model))


def test_under_autocast_all_is_computed_as_the_model_would():
    model = headed(pooling="mean").float()
    batch = models.batch(model)
    seen = []
    layers_of(model)[0].intermediate.dense.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    forward = model.forward
    model.forward = lambda *args, **kwargs: torch.autocast("cpu", torch.bfloat16)(forward)(*args, **kwargs)  # as accelerate does
    with features(model):
        model(**batch)
    assert seen == [torch.bfloat16]


def test_no_more_is_kept_than_allowed():
    model = headed()
    batch = models.batch(model)
    expected = outcome(model, batch)[0]
    with features(model, max_bytes=2 * 32 * NUMBER + 1) as kept:
        for _ in range(2):
            assert_close(outcome(model, batch)[0], expected)
        assert (kept.texts, kept.nbytes) == (2, 2 * 32 * NUMBER)


@pytest.mark.parametrize("mixed", [False, True])
def test_from_a_file(tmp_path, mixed):
    model = headed(mixed=mixed)
    batch = models.batch(model)
    with features(model) as kept:
        kept.fill([batch], tmp_path / "kept")
        expected = outcome(model, batch)[0]
        assert kept.file == "written"
    with features(model) as kept:
        layers_of(model)[0].attention.register_forward_hook(lambda *_: pytest.fail("it ran again"))
        kept.fill([batch], tmp_path / "kept")
        assert kept.file == "read" and torch.equal(outcome(model, batch)[0], expected)


def test_a_file_of_another_reading_is_written_anew(tmp_path):
    file = tmp_path / "kept"
    for i, model in enumerate([headed(), headed(pooling="max"), headed(mixed=True), headed(pooling="native")]):
        batch = models.batch(model)
        with run_once(model) as kept:
            kept.fill([batch], file)
            assert kept.file == ("written anew: it was made by another model or other versions" if i else "written")
            found = outcome(model, batch)[0]
        assert_close(found, outcome(model, batch)[0])


def test_run_once_takes_what_fits():
    for model, kind in ((headed(), Features), (headed(task="token"), Features), (headed(mixed=True), Features),
                        (headed(pooling="native"), Replay)):  # fmt: skip
        with run_once(model) as kept:
            assert type(kept) is kind and kept.layers == 3
    model = headed()
    layers_of(model)[2].output.dense.weight.requires_grad_(True)
    with run_once(model) as kept:
        assert type(kept) is Replay and kept.layers == 2


class TestRefused:
    def test_a_model_trained_below_its_head(self):
        with pytest.raises(ValueError, match=r"^features: model must be trained above its base model alone, got one whose bert"):
            features(set_pooling(build(), "mean").model)

    def test_a_head_that_looks_elsewhere(self):
        with pytest.raises(
            ValueError, match=r"^features: model must be a token classifier, or one that pools .*, got pooling 'na"
        ):
            features(headed(pooling="native"))

    def test_a_bare_base_model(self):
        with pytest.raises(ValueError, match=r"^features: model must be a base model with a head above it, got BertModel"):
            features(build().base_model)

    def test_padding_on_the_left_and_other_inputs(self):
        model = headed()
        batch = models.batch(model)
        left = batch | {"attention_mask": batch["attention_mask"].flip(1)}
        with features(model):
            with pytest.raises(ValueError, match=r"^replay: texts must be padded on the right"):
                model(**left)
            with pytest.raises(ValueError, match=r"^replay: inputs must be of input_ids, .*, got inputs_embeds$"):
                model(inputs_embeds=torch.randn(2, 3, 32, dtype=torch.float64))

    def test_the_model_is_whole_again_after_an_error(self):
        model = headed(mixed=True)
        batch = models.batch(model)
        expected = outcome(model, batch)[0]
        with pytest.raises(IndexError), features(model):
            model(input_ids=torch.full((1, 3), 10**6))
        assert torch.equal(outcome(model, batch)[0], expected)


def test_nothing_more_is_kept_when_that_is_asked_for():
    model = headed()
    whole = models.batch(model)
    with features(model) as handle:
        model(**part(whole, [0], 6))
        kept = handle.texts, handle.nbytes
        handle.keep_no_more()
        model(**whole)
        assert (handle.texts, handle.nbytes) == kept and kept[0] == 1
