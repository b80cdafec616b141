"""Scores of blocks and of embedding rows against dense gradients of each example, and what is chosen by them."""

import json
from collections import Counter

import pytest
import tiny_task
import torch
from command_line import run
from example_gradients import gradients, some_positions
from models import build, same
from oracles import assert_as_before, batches, everything_about
from tiny_task import save_model, write_data
from tolerances import assert_close
from torch import nn

import clm_kernels as clm
from clm_kernels.measure.estimate.operations import flops
from clm_kernels.models.structure import input_embedding
from clm_kernels.selecting.batches import mean_size
from clm_kernels.selecting.budget.cost import CostModel
from clm_kernels.selecting.pipeline import best_units
from clm_kernels.selecting.scores.sensitivity import eligible_weights
from clm_kernels.selecting.units.finding import find_units
from clm_kernels.selection import Selection

BLOCK = (8, 16)
on_positions = pytest.mark.parametrize("positions", [None, some_positions], ids=["all", "some"])


def in_blocks(grid):
    """Sums over blocks, in their row-major order."""
    (height, width), (*_, rows, columns) = BLOCK, grid.shape
    parts = [
        grid[..., i : i + height, j : j + width].sum((-1, -2)) for i in range(0, rows, height) for j in range(0, columns, width)
    ]
    return torch.stack(parts, -1)


@on_positions
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_blocks_equal_dense_gradients(family, positions):
    model = build(family, dtype=torch.float64)
    given, before = batches(model), everything_about(model)
    scores = {
        rule: clm.sensitivity(model, given, kind="blocks", block=BLOCK, rule=rule, positions=positions)
        for rule in ("fisher", "saliency")
    }
    assert_as_before(model, before)
    dense = gradients(model, given, positions)
    assert list(scores["fisher"]) == list(scores["saliency"]) == list(eligible_weights(model))
    for name, gradient in dense.items():
        assert_close(scores["fisher"][name], in_blocks(gradient.square()).sum(0))
        assert_close(scores["saliency"][name], in_blocks(model.get_parameter(name).detach() * gradient).abs().sum(0))


def with_padding_inside(model):
    """Batches in which a text holds the padding token where it counts, and one token twice."""
    given = batches(model)
    given[0]["input_ids"][1, 2] = model.config.pad_token_id
    given[0]["input_ids"][2, 1:3] = 7
    return given


def dense_rows(model, given, positions):
    """``(examples, V, H)``: the embedding's dense gradient of every example alone, by autograd."""
    module, weights, found = model.get_input_embeddings(), [None], []
    model.eval().requires_grad_(True)

    def weigh(module, args, output):
        if weights[0] is not None:
            output.register_hook(lambda dy: dy * weights[0][..., None].to(dy.dtype))

    hook = module.register_forward_hook(weigh)
    for batch in given:
        for i in range(len(batch["labels"])):
            weights[0] = None if positions is None else positions(batch)[i : i + 1]
            model.zero_grad()
            example = {name: tensor[i : i + 1] for name, tensor in batch.items()}
            (model(**example).loss * (example["labels"] != -100).sum()).backward()
            found.append(module.weight.grad.clone())
    hook.remove()
    model.zero_grad()
    return torch.stack(found)


@on_positions
@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "gpt2", "llama", "gemma3"])
def test_embedding_rows_equal_dense_gradients(family, positions):
    """Gemma multiplies its rows by a number; the padding token's row never gets a gradient where the module says so."""
    model = build(family, dtype=torch.float64)
    given, (name, module) = with_padding_inside(model), input_embedding(model)
    dense = dense_rows(model, given, positions)
    before = everything_about(model)
    for rule, expected in (
        ("fisher", dense.square().sum(2).sum(0)),
        ("saliency", (module.weight.detach() * dense).sum(2).abs().sum(0)),
    ):
        scores = clm.sensitivity(model, given, kind={name: "rows"}, rule=rule, positions=positions)
        assert list(scores) == [name] and expected.max() > 0
        # one text at a time and in a batch, models round otherwise: ModernBERT by 1e-11
        torch.testing.assert_close(scores[name], expected, rtol=1e-9, atol=1e-10 * float(expected.max()))
    assert_as_before(model, before)


def test_embedding_rows_of_token_labels_and_beside_other_kinds():
    model = build(task="token", dtype=torch.float64)
    given, (name, _) = batches(model, "token"), input_embedding(model)
    kinds = find_units(model, "columns+embeddings").kinds
    scores, columns = clm.sensitivity(model, given, kind=kinds), clm.sensitivity(model, given)
    expected = dense_rows(model, given, None).square().sum(2).sum(0)
    assert_close(scores.pop(name) / expected.max(), expected / expected.max())
    assert same(scores, columns)


@pytest.mark.parametrize("rule", ["magnitude", "random"])
def test_rules_that_read_no_data(rule):
    model = build()
    kinds = {**dict.fromkeys(eligible_weights(model), "blocks"), input_embedding(model)[0]: "rows"}
    poison = iter(lambda: pytest.fail("read"), None)
    for name, score in clm.sensitivity(model, poison, kind=kinds, block=BLOCK, rule=rule).items():
        squared = model.get_parameter(name).detach().square()
        expected = in_blocks(squared) if kinds[name] == "blocks" else squared.sum(1)
        assert score.shape == expected.shape
        if rule == "magnitude":
            assert_close(score, expected)


def test_what_is_refused():
    tied = build("llama", "causal", tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"^sensitivity: the input embedding must be read by nothing else, got one tied to 'lm_"):
        clm.sensitivity(tied, batches(tied, "causal"), kind={"model.embed_tokens.weight": "rows"})
    model = build()
    name, module = input_embedding(model)
    with pytest.raises(ValueError, match=r"^sensitivity: kind must be rows for the input embedding, got 'columns'$"):
        clm.sensitivity(model, batches(model), kind={name: "columns"})
    with pytest.raises(ValueError, match=r"^Entries: block must divide the weight's shape \(32, 32\), got \(5, 5\)$"):
        clm.sensitivity(model, batches(model), kind="blocks", block=(5, 5))

    class Shifted(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) + 1

    module.__class__ = Shifted
    with pytest.raises(ValueError, match="must give its rows, or its rows times a number, got a Shifted"):
        clm.sensitivity(model, batches(model), kind={name: "rows"})


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("blocks", {"blocks"}),
        ("embeddings", {"rows"}),
        ("columns+embeddings", {"columns", "rows"}),
        ("blocks+embeddings", {"blocks", "rows"}),
        ("heads+neurons+embeddings", {"rows", "columns"}),
        ("layers", {"rows"}),
    ],
)
def test_what_is_chosen_is_worth_most(kind, expected):
    model = build()
    given, units = batches(model), find_units(model, kind, block=BLOCK)
    selection, scores = best_units(model, given, kind=kind, density=0.5, block=BLOCK)
    assert {entries.kind for entries in selection.values()} == expected
    assert selection.count <= 0.5 * units.entries.sum()
    worth = units.scores(scores) / units.entries
    taken = units.select(worth >= worth.topk(2 if kind == "layers" else 8).values[-1]) if kind != "layers" else Selection()
    assert taken & selection == taken  # the best are among them
    clm.patch(model, selection)
    model(**given[0]).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_choose_takes_them_too():
    labels = sorted(tiny_task.TOPICS)
    model = build(id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})
    rows, made = tiny_task.texts(20, seed=0), tiny_task.tokenizer()
    selection = clm.choose(model, made, rows, kind="embeddings", density=0.1)
    ((name, entries),) = selection.items()
    assert name == input_embedding(model)[0] and entries.index.numel() == 6
    read = Counter(piece for row in rows for piece in made(row["text"])["input_ids"])
    assert set(entries.index.tolist()) <= set(read)
    blocks = clm.choose(model, made, rows, kind="blocks", density=0.1, block=(16, 16))
    assert {(entries.kind, entries.block) for entries in blocks.values()} == {("blocks", (16, 16))}


def test_embedding_rows_cost_the_whole_backward():
    """Below what all input gradients cost there are none, however much they are worth; above it, they cost no more."""
    model = build(num_hidden_layers=4)
    units, size = find_units(model, "columns+embeddings"), {"batch": 2, "length": 8}
    scores = {name: torch.ones(part.layout.units) for name, part in units.items()}
    name = input_embedding(model)[0]
    scores[name] *= 1e6
    cost = CostModel(model, **size)
    alone = cost.of(find_units(model, "embeddings").select(torch.arange(64) < 9)).share
    low = clm.budget(scores, model, backward=0.9 * alone, units=units, **size)
    assert low and name not in low and cost.of(low).share <= 0.9 * alone
    high = clm.budget(scores, model, backward=alone + 1e-9, units=units, **size)
    assert high[name].index.numel() == 64 and cost.of(high).share <= alone + 1e-9
    only = find_units(model, "embeddings")
    with pytest.raises(ValueError, match=r"^budget: backward must be at least 0\.\d+ to admit one unit, got 0\.3$"):
        clm.budget({name: scores[name]}, model, backward=0.3, units=only, **size)


@pytest.mark.parametrize(("kind", "kinds"), [("blocks", {"blocks"}), ("heads+neurons+embeddings", {"rows", "columns"})])
def test_train_by_them(tmp_path, kind, kinds):
    model = save_model(tmp_path / "model")
    files = [option for part, path in write_data(tmp_path).items() for option in (f"--{part}", path)]
    options = ["--batch-size", 8, "--density", 0.3, "--sensitivity-examples", 24, "--epochs", 1]
    options += ["--block", 16] if kind == "blocks" else []
    result = run("train", "--model", model, *files, "--output", tmp_path / "o", "--kind", kind, *options)
    assert result.exit_code == 0, result.stderr
    selection = Selection.load(tmp_path / "o" / "selection.safetensors")
    assert {entries.kind for entries in selection.values()} == kinds
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert sum(line["sensitivity"] for line in report["selection"]) == pytest.approx(1)
    embedded = "bert.embeddings.word_embeddings.weight" in selection
    assert embedded == ("embeddings" in kind) and ("below" in result.stdout) == embedded
    assert run("predict", "--model", tmp_path / "o", input="my refund\n").exit_code == 0
    for wrong, message in (
        ("columns+blocks", "must not share a weight"),
        ("words", "kind must be 'auto', 'elements', 'groups', 'rows', 'columns'"),
    ):
        refused = run("train", "--model", model, *files, "--output", tmp_path / "p", "--kind", wrong, *options)
        assert refused.exit_code == 2 and message in refused.stderr and not (tmp_path / "p").exists()


@pytest.mark.parametrize("kind", ["rows", "columns"])
@pytest.mark.parametrize("share", [0.2, 0.35, 1.0])
@pytest.mark.parametrize("per", ["model", "weight"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_what_the_cost_does_not_admit_is_not_scored(family, per, kind, share):
    """The choice is that among all weights' scores; the backward pass of scoring ends where the training's would."""
    model = build(family, num_hidden_layers=4)
    given = batches(model)
    batch, length = mean_size(given)
    scores = clm.sensitivity(model, given, kind=kind)
    options = {"backward": share, "density": 0.1, "kind": kind, "biases": True, "per": per}
    expected = clm.budget(scores, model, batch=batch, length=length, **options)
    found = best_units(model, given, **options)
    assert found.selection == expected
    assert found.scores.keys() == scores.keys() if share == 1.0 else found.scores.keys() < scores.keys()
    assert all(torch.equal(found.scores[name], scores[name]) for name in found.scores)


def test_the_pass_of_scoring_ends_at_the_lowest_weight_that_is_scored():
    model = build(num_hidden_layers=4)
    given = batches(model)
    costs = [flops(lambda layers=layers: clm.sensitivity(model, given, layers=layers)) for layers in ("all", "upper half")]
    whole = CostModel(model, *mean_size(given))
    assert costs[1] < 0.7 * costs[0]
    assert costs[0] - costs[1] > whole.forward / 3
