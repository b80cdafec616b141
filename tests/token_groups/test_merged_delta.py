"""New embedding rows: what they begin as, that they and the selection alone train, and their way through a Delta."""

import copy
from dataclasses import asdict, replace

import pytest
import torch
from models import bits, build, same, select
from torch import nn
from transformers import BertForMaskedLM

import clm_kernels as clm
from clm_kernels.extension import Extension, NewToken
from clm_kernels.models.embedding import resize_embedding
from clm_kernels.token_groups.embeddings import extend_embeddings
from clm_kernels.token_groups.merging import MergedTokenizer

PIECES = [(5, 6), (7, 8, 9), (5, 5, 10, 11)]
FAMILIES = [("bert", "sequence"), ("roberta", "token"), ("qwen3", "sequence"), ("gemma3", "causal"), ("gpt2", "causal"), ("deberta", "sequence"), ("albert", "sequence")]  # fmt: skip
families = pytest.mark.parametrize(("family", "task"), FAMILIES)


def merge(first=64):
    tokens = (NewToken(f"text {i}", first + i, pieces, False) for i, pieces in enumerate(PIECES))
    return MergedTokenizer(None, None, tuple(tokens), {})


def embedding(model):
    return model.get_input_embeddings().weight


def extended(family="bert", task="sequence", dtype=torch.float32, first=64, how="mean"):
    model = build(family, task, dtype)
    return model, *extend_embeddings(model, merge(first), how)


def inputs(seed=0, task="sequence", first=64):
    """A batch with old tokens, and with the new ones."""
    ids = torch.randint(12, 50, (3, 8), generator=torch.Generator().manual_seed(seed))
    ids[:, 2], ids[1, 5] = first + torch.arange(3), first
    labels = ids if task == "causal" else torch.arange(3) if task == "sequence" else ids % 3
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def trained(family="bert", task="sequence", dtype=torch.float32, first=64, kind="rows", where="layer", lr=1e-2):
    """A model whose new rows and a part of the rest have learnt something, and its handle."""
    model, extension, new = extended(family, task, dtype, first)
    handle = clm.patch(model, new | select(model, kind, where=where), extension=extension)
    optimizer = clm.SparseAdamW(model.parameters(), lr=lr)
    for step in range(2):
        model(**inputs(step, task, first)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, handle


# The rows


@families
def test_new_rows_are_the_mean_of_their_pieces_and_all_else_stays(family, task):
    before = build(family, task)
    model, extension, selection = extended(family, task)
    weight, old = embedding(model), embedding(before)
    assert weight.shape == (67, old.shape[1]) and model.config.vocab_size == 67
    assert torch.equal(weight[:64], old)
    for i, pieces in enumerate(PIECES):
        torch.testing.assert_close(weight[64 + i], sum(old[piece] for piece in pieces) / len(pieces))
    assert list(selection) == [extension.name] and selection[extension.name].index.tolist() == [64, 65, 66]
    assert dict(model.named_parameters(remove_duplicate=False))[extension.name] is weight
    assert weight.requires_grad and (extension.rows, extension.columns) == old.shape
    shared = {name: tensor for name, tensor in bits(model).items() if tensor.shape[:1] != (67,)}
    assert same(shared, {name: tensor for name, tensor in bits(before).items() if name in shared})
    ids = inputs()["input_ids"].clamp(max=63)
    with torch.no_grad():
        outputs = [m.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for m in (model, before)]
    assert torch.equal(outputs[0][..., :64], outputs[1])


def test_weighted_rows():
    model, *_ = extended(how="weighted")
    weight = embedding(model)
    torch.testing.assert_close(weight[64], (weight[5] + 2 * weight[6]) / 3)
    torch.testing.assert_close(weight[65], (weight[7] + 2 * weight[8] + 3 * weight[9]) / 6)


def test_tied_weights_stay_tied():
    model, *_ = extended("gemma3", "causal")
    assert model.lm_head.weight is embedding(model) and model.lm_head.out_features == 67
    assert model(**inputs(task="causal")).logits.shape[-1] == 67


def test_rows_that_the_tokenizer_did_not_use_are_taken_first():
    model, extension, selection = extended(first=62)
    assert embedding(model).shape[0] == 65 and selection[extension.name].index.tolist() == [62, 63, 64]
    model, extension, selection = extended(first=50)
    assert embedding(model).shape[0] == 64 and selection[extension.name].index.tolist() == [50, 51, 52]
    old = embedding(build())
    torch.testing.assert_close(embedding(model)[50], (old[5] + old[6]) / 2)


def test_the_random_state_is_left_alone():
    model = build()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    extend_embeddings(model, merge())
    assert torch.equal(torch.rand(4), expected)


def test_models_that_cannot_be_extended():
    with pytest.raises(ValueError, match="extend_embeddings: model must be one of transformers with an embedding, got Linear"):
        extend_embeddings(nn.Linear(2, 2), merge())
    with pytest.raises(ValueError, match="model must be one with a row for each of the tokenizer's 65 tokens, got 64"):
        extend_embeddings(build(), merge(65))
    with pytest.raises(ValueError, match="how must be one of mean, weighted, got 'max'"):
        extend_embeddings(build(), merge(), "max")
    refused = "no output for every token but one tied to its embedding, without a bias, got "
    with pytest.raises(ValueError, match=f"{refused}BertForMaskedLM"):
        extend_embeddings(BertForMaskedLM(build().config), merge())
    with pytest.raises(ValueError, match=f"{refused}LlamaForCausalLM"):
        extend_embeddings(build("llama", "causal", tie_word_embeddings=False), merge())
    with pytest.raises(ValueError, match="resize_embedding: model must be one of transformers"):
        resize_embedding(nn.Linear(2, 2), 3)


# Training


@families
def test_only_new_rows_selection_and_head_train(family, task):
    model, extension, _ = extended(family, task)
    before, start = bits(model), embedding(model).detach().clone()
    model, handle = trained(family, task)
    handle.restore()
    after, now = bits(model), embedding(model)
    assert torch.equal(now[:64], start[:64])
    assert all(not torch.equal(now[i], start[i]) for i in (64, 65, 66))
    for name, tensor in after.items():
        if name in handle.selection and name != extension.name:
            tensor, old = tensor.clone(), before[name].clone()
            for state in (tensor, old):
                state.view(-1)[handle.selection[name].flat_index().flatten()] = 0
            assert torch.equal(tensor, old), name
        elif name not in handle.whole and tensor.data_ptr() != now.data_ptr() and tensor.shape != now.shape:
            assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("kind", ["rows", "columns", "elements", "blocks"])
def test_a_selection_for_the_base_is_made_one_for_the_new_shape(kind):
    base = build()
    selection = select(base, kind if kind != "rows" else "rows")
    name = "bert.embeddings.word_embeddings.weight"
    shape = tuple(embedding(base).shape)
    index = [0, 3] if kind != "elements" else [0, 5, 100]
    own = clm.Entries.of(kind, index, shape, (4, 2) if kind == "blocks" else None)
    selection = clm.Selection({**selection, name: own})
    model, extension, new = extended()
    wide = extension.extend(selection)
    mask, expected = (torch.zeros(67, 32, dtype=torch.bool) for _ in range(2))
    mask.view(-1)[wide[name].flat_index().flatten()] = True
    expected[:64].view(-1)[own.flat_index().flatten()] = True
    expected[64:] = True
    assert torch.equal(mask, expected)
    assert extension.extend(wide) == wide and extension.extend(clm.Selection())[name] == new[name]
    assert {k: v for k, v in wide.items() if k != name} == {k: v for k, v in selection.items() if k != name}
    wide.check(dict(model.named_parameters()))


def test_new_rows_that_are_not_selected():
    model, extension, new = extended()
    part = clm.Selection({extension.name: clm.Entries.of("rows", [64, 65], (67, 32))})
    for selection in (clm.Selection(), part, select(model, where="layer")):
        with pytest.raises(
            ValueError, match=r"patch: selection must hold the rows of all 3 new tokens of 'bert.emb.*, whose shape"
        ):
            clm.patch(model, selection, extension=extension)
    handle = clm.patch(model, new, extension=extension)
    delta = handle.delta()
    with pytest.raises(ValueError, match="Delta: selection must hold the rows of all 3 new tokens"):
        clm.Delta(part, {extension.name: torch.zeros(2, 32)}, {}, delta.originals, extension=extension)


# Deltas


@families
@pytest.mark.parametrize("first", [64, 62, 50])
def test_applied_and_reverted_bit_for_bit(family, task, first, tmp_path):
    model, handle = trained(family, task, first=first)
    handle.delta().save(tmp_path / "d.safetensors")
    handle.restore()
    delta, base = clm.Delta.load(tmp_path / "d.safetensors"), build(family, task)
    assert delta.extension == handle.extension
    before, config, grad = bits(base), copy.deepcopy(base.config), [p.requires_grad for p in base.parameters()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for _ in range(2):
        with delta.applied(base):
            assert same(bits(base), bits(model))
            assert base.config.vocab_size == len(embedding(base)) == max(64, first + 3)
            assert base.get_input_embeddings().num_embeddings == max(64, first + 3)
            with torch.no_grad():
                ids = inputs(first=first)["input_ids"]
                assert torch.equal(base.eval()(ids).logits, model.eval()(ids).logits)
        assert same(bits(base), before) and base.config.to_dict() == config.to_dict()
        assert [p.requires_grad for p in base.parameters()] == grad
        assert base.get_input_embeddings().num_embeddings == 64
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types(dtype):
    model, handle = trained(dtype=dtype)
    delta, base = handle.delta(), build(dtype=dtype)
    before = bits(base)
    with delta.applied(base):
        assert same(bits(base), bits(model))
    assert same(bits(base), before)


def test_rows_of_the_base_that_train_too():
    model, extension, new = extended()
    name = extension.name
    more = clm.Selection({name: clm.Entries.of("rows", [3, 9], (67, 32))})
    handle = clm.patch(model, new | more, extension=extension)
    optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2)
    batch = inputs()
    batch["input_ids"][:, 0] = 9
    model(**batch).loss.backward()
    optimizer.step()
    delta, base = handle.delta(), build()
    before = bits(base)
    with delta.applied(base):
        assert same(bits(base), bits(model)) and not torch.equal(embedding(base)[9], before[name][9])
    assert same(bits(base), before)


def test_another_base_is_refused():
    delta = trained()[1].delta()
    other = build()
    embedding(other).data[20, 3] += 1  # a row that the delta does not write
    refused = [(other, "does not hold the values of the base"), (extended()[0], r"must have shape \(64, 32\) as in the base, got \(67, 32\)"),
               (build("bert", vocab_size=60), r"as in the base, got \(60, 32\)"), (build("roberta"), "not a weight of this model")]  # fmt: skip
    for model, message in refused:
        before = bits(model)
        with pytest.raises(ValueError, match=message):
            delta.apply(model)
        assert same(bits(model), before)
    delta.apply(build())


def test_unused_rows_that_another_base_holds_otherwise_are_refused():
    delta, other = trained(first=50)[1].delta(), build()
    embedding(other).data[51] += 1
    with pytest.raises(ValueError, match="does not hold the values of the base"):
        delta.apply(other)


def test_stacks_with_a_delta_that_leaves_the_embedding_alone():
    base = build()
    before = bits(base)
    first = trained(where="layer.0")[1].delta()
    model = build()
    handle = clm.patch(model, select(model, where="layer.1"), head=False)
    optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2)
    model(**{**inputs(), "input_ids": torch.arange(24).view(3, 8)}).loss.backward()
    optimizer.step()
    second = handle.delta()
    for one, other in ((first, second), (second, first)):
        one.apply(base)
        between = bits(base)
        with other.applied(base):
            assert not same(bits(base), between)
        assert same(bits(base), between)
        one.revert()
        assert same(bits(base), before)


def test_merged_for_good(tmp_path):
    model, handle = trained()
    merged = handle.delta().merge(build())
    handle.restore()
    merged.save_pretrained(tmp_path)
    assert same(bits(type(merged).from_pretrained(tmp_path)), bits(model))


def test_files_without_new_tokens_say_so_and_altered_ones_are_refused(tmp_path):
    plain = build()
    handle = clm.patch(plain, select(plain))
    handle.delta().save(tmp_path / "plain.safetensors")
    assert clm.Delta.load(tmp_path / "plain.safetensors").extension is None
    delta = trained()[1].delta()
    described = asdict(delta.extension)
    assert Extension.from_json(described) == delta.extension
    for change in ({"tokens": [{}]}, {"rows": 3, "lines": 4}, {"tokens": None}):
        with pytest.raises(ValueError, match=r"^Extension: the record must be an object with name, "):
            Extension.from_json(described | change)
    delta.extension = replace(delta.extension, rows=60, tokens=delta.extension.tokens[:1])
    delta.save(tmp_path / "wrong.safetensors")
    with pytest.raises(
        ValueError, match="Delta: the new tokens must be at most as many as the 60 of the base, with rising ids up to 60, got "
    ):
        clm.Delta.load(tmp_path / "wrong.safetensors")
