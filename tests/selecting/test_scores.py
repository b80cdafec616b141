"""Scores beyond the plain Fisher pass: positions, other rules, single elements and blocks; each against dense gradients."""

import pytest
import torch
from example_gradients import gradients, some_positions
from models import build, same
from oracles import assert_as_before, batches, everything_about
from tolerances import assert_close

import clm_kernels as clm
from clm_kernels.selecting.scores.positions import at_first, at_groups, at_labels, at_last
from clm_kernels.selecting.scores.sensitivity import eligible_weights
from clm_kernels.selecting.units.elements import top_entries
from clm_kernels.selecting.units.embedding import group_rows
from clm_kernels.token_groups import token_groups

FAMILIES = ("bert", "gpt2", "llama")


@pytest.mark.parametrize("positions", [None, some_positions], ids=["all", "some"])
@pytest.mark.parametrize("kind", ["rows", "columns"])
@pytest.mark.parametrize("family", FAMILIES)
def test_fisher_and_saliency_equal_dense_gradients(family, kind, positions):
    model = build(family, dtype=torch.float64)
    given, dim = batches(model), {"rows": 2, "columns": 1}[kind]
    dense = gradients(model, given, positions)
    fisher = clm.sensitivity(model, given, kind=kind, positions=positions)
    saliency = clm.sensitivity(model, given, kind=kind, rule="saliency", positions=positions)
    assert fisher.keys() == saliency.keys() == dense.keys()
    for name, gradient in dense.items():
        assert_close(fisher[name], gradient.square().sum(dim).sum(0))
        expected = (model.get_parameter(name).detach() * gradient).sum(dim).abs().sum(0)
        torch.testing.assert_close(saliency[name].double(), expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


def test_positions_of_1_are_all_positions():
    model = build()
    given = batches(model)
    ones = clm.sensitivity(model, given, positions=lambda batch: torch.ones(batch["input_ids"].shape))
    for name, score in clm.sensitivity(model, given).items():
        assert_close(ones[name], score)


def test_a_kind_for_each_weight():
    model = build()
    given, names = batches(model), list(eligible_weights(model))
    rows, columns = (clm.sensitivity(model, given, kind=kind) for kind in ("rows", "columns"))
    mixed = clm.sensitivity(model, given, kind={names[0]: "rows", names[3]: "columns"})
    assert same(mixed, {names[0]: rows[names[0]], names[3]: columns[names[3]]})
    with pytest.raises(ValueError, match=r"kind must be of weights in the model's layers, got 'classifier\.weight'"):
        clm.sensitivity(model, given, kind={"classifier.weight": "rows"})
    with pytest.raises(ValueError, match="kind must be rows, columns or blocks, got 'heads'"):
        clm.sensitivity(model, given, kind={names[0]: "heads"})


@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_magnitude_and_chance_read_no_data(kind):
    model = build("gpt2")
    poison = iter(lambda: pytest.fail("read"), None)
    for name, score in clm.sensitivity(model, poison, kind=kind, rule="magnitude").items():
        assert_close(score, model.get_parameter(name).detach().square().sum(1 if kind == "rows" else 0))
    chance = [clm.sensitivity(model, poison, kind=kind, rule="random", seed=seed) for seed in (0, 0, 1)]
    assert same(chance[0], chance[1]) and not same(chance[0], chance[2])
    assert all(score.shape == (model.get_parameter(name).shape[kind == "columns"],) for name, score in chance[0].items())
    with pytest.raises(ValueError, match="positions must be left out with the rule 'random'"):
        clm.sensitivity(model, poison, rule="random", positions=some_positions)
    with pytest.raises(ValueError, match="rule must be one of fisher, saliency, magnitude, random, got 'luck'"):
        clm.sensitivity(model, poison, rule="luck")


def test_first_last_and_labelled_positions():
    ids = torch.arange(10).view(2, 5)
    right, left = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    assert at_first({"input_ids": ids, "attention_mask": right}).nonzero().tolist() == [[0, 0], [1, 0]]
    assert at_first({"input_ids": ids, "attention_mask": left}).nonzero().tolist() == [[0, 2], [1, 0]]
    assert at_last({"input_ids": ids, "attention_mask": right}).nonzero().tolist() == [[0, 2], [1, 4]]
    assert at_last({"input_ids": ids}).nonzero().tolist() == [[0, 4], [1, 4]]
    labels = torch.tensor([[-100, 1, -100, 0, -100], [-100] * 5])
    assert at_labels({"input_ids": ids, "labels": labels}).tolist() == (labels != -100).float().tolist()
    with pytest.raises(ValueError, match="labels must be one for each token, got one for each text"):
        at_labels({"input_ids": ids, "labels": torch.tensor([0, 1])})


def test_group_positions_skip_padding_and_spare_texts_without_a_group(tokenizer):
    groups = token_groups([("charged twice please", "fees"), ("the app again", "bug")] * 5, tokenizer, top=1, longest=2)
    batch = tokenizer(["it was charged twice", "it was it"], add_special_tokens=False)
    ids = torch.tensor([batch["input_ids"][0], [*batch["input_ids"][1], batch["input_ids"][0][-1]]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    inside = at_groups(groups)({"input_ids": ids, "attention_mask": mask})
    best = groups.by_class["fees"][0].text.split()
    assert inside.tolist() == [[float(word in best) for word in ["it", "was", "charged", "twice"]], [1.0, 1.0, 1.0, 0.0]]


@pytest.mark.parametrize("memory", [1, 1 << 28])
@pytest.mark.parametrize("kind", ["elements", "blocks"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_top_entries_are_those_of_all_scores_at_once(family, kind, memory):
    model, block = build(family, dtype=torch.float64), (8, 16)
    given, before = batches(model), everything_about(model)
    selection = top_entries(model, given, density=0.1, kind=kind, block=block, memory=memory)
    assert_as_before(model, before)
    scores = {name: g.square().sum(0) for name, g in gradients(model, given).items()}
    if kind == "blocks":
        scores = {name: s.unflatten(1, (-1, 16)).unflatten(0, (-1, 8)).sum((1, 3)) for name, s in scores.items()}
    everything = torch.cat([score.flatten() for score in scores.values()])
    best = everything.topk(round(0.1 * len(everything)))
    assert sum(entries.index.numel() for entries in selection.values()) == len(best.values)
    for name, entries in selection.items():
        flat = scores[name].flatten()
        assert bool((flat[entries.index.long()] >= best.values[-1] * (1 - 1e-9)).all())
        assert entries.kind == kind and (kind == "elements" or entries.block == block)


def test_top_entries_refuses():
    model = build()
    for options, message in (
        ({"kind": "rows"}, "kind must be elements or blocks, got 'rows'"),
        ({"density": 0}, r"density must lie in \(0, 1\], got 0"),
        ({"density": 1e-9}, "density must allow at least one of"),
        ({"kind": "blocks", "block": (7, 7)}, "7"),
    ):
        with pytest.raises(ValueError, match=message):
            top_entries(model, batches(model), **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_rows_of_groups_train_and_no_others(family, tokenizer):
    groups = token_groups([("charged twice please", "fees"), ("the app again", "bug")] * 5, tokenizer, top=1, longest=2)
    model = build(family)
    selection = group_rows(model, groups)
    ((name, entries),) = selection.items()
    expected = sorted({piece for group in groups for piece in group.ids})
    assert model.get_parameter(name) is model.get_input_embeddings().weight and entries.index.tolist() == expected
    before = model.get_input_embeddings().weight.detach().clone()
    clm.patch(model, selection)
    optimizer = clm.SparseAdamW(model.parameters(), lr=0.1)
    ids = torch.arange(1, 21).view(2, 10)
    model(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    changed = (model.get_input_embeddings().weight.detach() != before).any(1).nonzero().flatten().tolist()
    assert changed == [row for row in expected if 1 <= row <= 20]


def test_embedding_rows_refuses_pieces_that_the_model_does_not_have(tokenizer):
    groups = token_groups([("charged twice", "fees"), ("app again", "bug")] * 5, tokenizer)
    with pytest.raises(ValueError, match="groups must be of pieces below 4, got"):
        group_rows(build(vocab_size=4, pad_token_id=0), groups)
