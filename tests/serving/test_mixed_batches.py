"""Mixed batches and shared layers beside each task alone: logits over kinds and families, and what cannot be mixed."""

import warnings
from contextlib import contextmanager

import pytest
import torch
from random_deltas import leave, random_delta
from tiny_task import byte_tokenizer, save_model, sentences, texts, tokenizer

import clm_kernels as clm
from clm_kernels.finetune.classifier import Classifier
from clm_kernels.serving import ways
from clm_kernels.serving.reading import Reading

TEXTS = [row["text"] for row in texts(9, 0)] + [" ".join(row["tokens"]) for row in sentences(3, 0)]
SMALL = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1, "vocab_size": 400}
MIXED = {
    "dealt": {"kind": "dealt"},
    "rows": {"kind": "rows", "labels": ["no", "yes"], "pooling": "max", "seed": 1, "biases": False},
    "columns": {"kind": "columns", "labels": [f"label {i}" for i in range(17)], "template": "please {text} now", "seed": 2},
    "blocks": {"kind": "blocks", "task": "token", "seed": 3},
    "upper": {"kind": "dealt", "lowest": 1, "seed": 4, "norms": False},
    "higher": {"kind": "rows", "lowest": 1, "pooling": "cls", "seed": 5},
    "head": {"lowest": float("inf"), "seed": 6},
}
RTOL = 1e-5  # of the largest logit
TOKENS = 4  # that every text has at least


def build(where, family="bert", tasks=MIXED, **changes):
    """A trunk of these tasks, and their folders' parent."""
    model = save_model(where / "model", family, **{"vocab_size": len(tokenizer())} | changes)
    trunk = clm.Trunk(model)
    for name, how in tasks.items():
        trunk.add(name, leave(random_delta(model, **how), where / name))
    return trunk, where


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build(tmp_path_factory.mktemp("mixing"))


def taken(call):
    """The logits of every row that a call finds, by the task's name and the row's number."""
    kept, take = {}, Reading.take

    def keep(self, rows, logits):
        kept.update({(self.member.name, i): row for i, row in zip(rows, logits, strict=True)})
        take(self, rows, logits)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Reading, "take", keep)
        call()
    return kept


def assert_close(found, expected):
    """To rounding, and of tokens those that are no padding in either."""
    assert found.keys() == expected.keys() and found
    for key, row in found.items():
        other = expected[key]
        size = slice(None) if row.dim() == 1 else slice(min(len(row), len(other), TOKENS))
        torch.testing.assert_close(row[size], other[size], rtol=0, atol=RTOL * float(other[size].abs().max()))


def alone(where, name):
    classifier = Classifier.load(where / "model", where / name / "delta.safetensors")
    return list(classifier.predict([text.split() if classifier.task == "token" else text for text in TEXTS]))


@pytest.mark.parametrize("name", MIXED)
def test_logits_of_every_kind(made, name):
    """Beside the exact way, which is that of the task alone."""
    trunk, _ = made
    names = [name if i % 3 else "rows" if name != "rows" else "dealt" for i in range(len(TEXTS))]
    expected = taken(lambda: trunk.classify(TEXTS, names, mix=False))
    with count_of(ways, "_one_batch") as mixed:
        assert_close(taken(lambda: trunk.classify(TEXTS, names, mix=True)), expected)
    assert mixed == [1]


@contextmanager
def count_of(module, name):
    """How often a function of a module is called."""
    calls, function = [0], getattr(module, name)

    def counted(*args, **kwargs):
        calls[0] += 1
        return function(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, name, counted)
        yield calls


def numbers(prediction):
    probabilities = prediction.probability
    return probabilities if isinstance(probabilities, list) else [probabilities]


@pytest.mark.parametrize("batch_size", [64, 13])
def test_mixed_answers_are_those_of_each_task_alone(made, batch_size):
    trunk, where = made
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # each of these can be mixed
        every = trunk.classify(TEXTS, mix=True, batch_size=batch_size)
    for name in MIXED:
        for found, expected in zip([each[name] for each in every], alone(where, name), strict=True):
            assert found.text == expected.text and found.label == expected.label
            assert numbers(found) == pytest.approx(numbers(expected), rel=1e-5)


def test_a_mix_leaves_the_model_as_it_was(made):
    trunk, _ = made
    former = {name: weight.clone() for name, weight in trunk._base.weights.items()}
    names = [[*MIXED][i % len(MIXED)] for i in range(len(TEXTS))]
    trunk.classify(TEXTS, names, mix=True)
    assert all(torch.equal(weight, former[name]) for name, weight in trunk._base.weights.items())
    modules = (module for member in trunk._members.values() for module in member.classifier.model.modules())
    assert not any("forward" in vars(module) for module in modules)


@pytest.mark.parametrize("family", ["gpt2", "llama", "modernbert", "deberta", "gemma2"])
def test_other_families(family, tmp_path):
    words = {"made": byte_tokenizer(), **SMALL} if family in ("llama", "gpt2", "gemma2") else {}
    sides = "all" if family in ("llama", "gpt2") else "none"
    tasks = {
        "dealt": {"pooling": "last" if words else "mean", "sides": sides},
        "columns": {"pooling": "max", "kind": "columns", "sides": sides, "seed": 1},
        "rows": {"task": "token", "kind": "rows", "sides": sides, "seed": 2, "lowest": 1},
    }
    trunk, _ = build(tmp_path, family, tasks, **words)
    names = [[*tasks][i % 3] for i in range(len(TEXTS))]
    expected = taken(lambda: trunk.classify(TEXTS, names, mix=False))
    with warnings.catch_warnings(record=True) as said:
        assert_close(taken(lambda: trunk.classify(TEXTS, names, mix=True)), expected)
    assert any("runs by itself" in str(each.message) for each in said) == (family in ("deberta", "gemma2"))


@contextmanager
def layers_run(trunk):
    """How many texts have run through each layer, whichever task's it is."""
    counts, hooks = {}, []
    for member in trunk._members.values():
        for number, layer in enumerate(member.layers):
            inner = layer.attention if hasattr(layer, "attention") else layer.self_attn

            def count(module, args, kwargs, output, number=number):
                counts[number] = counts.get(number, 0) + len(args[0] if args else kwargs["hidden_states"])

            hooks.append(inner.register_forward_hook(count, with_kwargs=True))
    yield counts
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("mix", [False, True])
def test_layers_below_all_that_is_trained_run_once(tmp_path_factory, mix):
    tasks = {
        "top": {"lowest": 3, "seed": 1},
        "upper": {"lowest": 2, "kind": "rows", "pooling": "max", "seed": 2},
        "head": {"lowest": float("inf"), "seed": 3},
        "tags": {"lowest": 2, "task": "token", "seed": 4},
    }
    trunk, where = build(tmp_path_factory.mktemp("prefix"), "bert", tasks, num_hidden_layers=4)
    with layers_run(trunk) as counts:
        every = trunk.classify(TEXTS, mix=mix)
    texts = len(TEXTS)
    if mix:  # in the lowest two layers once as a text and once as words
        assert counts == {0: 2 * texts, 1: 2 * texts, 2: 4 * texts, 3: 4 * texts}
    else:  # the head's run serves the others below what they changed
        assert counts == {0: 2 * texts, 1: 2 * texts, 2: 3 * texts, 3: 4 * texts}
        for name in tasks:
            assert [each[name] for each in every] == alone(where, name)
    for each in every:
        assert each.keys() == tasks.keys()


def test_what_cannot_be_mixed_runs_by_itself_and_is_said_once(tmp_path):
    tasks = {
        "a": {"seed": 1},
        "b": {"seed": 2},
        "elements": {"kind": "elements", "seed": 3},
        "merged": {"kind": "rows", "merged": ("my refund", "the parcel"), "seed": 4},
    }
    trunk, where = build(tmp_path, "bert", tasks)
    with pytest.warns(UserWarning) as said:
        every = trunk.classify(TEXTS, mix=True)
    found = sorted(str(each.message) for each in said if "runs by itself" in str(each.message))
    assert ["'elements' runs by itself, as the elements of" in found[0], "'merged' runs by itself, as its merged" in found[1]]
    assert len(found) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trunk.classify(TEXTS, mix=True) == every
    for name in ("elements", "merged"):
        assert [each[name] for each in every] == alone(where, name)


def test_what_auto_does(made):
    trunk, _ = made
    many, few = ["rows", "dealt"] * 3, ["rows", "dealt"] * 2
    for names, mixed in ((many, 0), (few, 1), ("rows", 0)):
        texts = TEXTS[: len(names)] if isinstance(names, list) else TEXTS[:1]
        with count_of(ways, "_one_batch") as calls:
            trunk.classify(texts, names)
        assert calls == [mixed]
    with pytest.raises(ValueError, match=r"Trunk.classify: mix must be True, False or 'auto', got 'both'"):
        trunk.classify(TEXTS, "rows", mix="both")


def test_an_error_in_a_mix_leaves_the_models_as_they_were(made, monkeypatch):
    trunk, _ = made
    monkeypatch.setattr(ways, "base_model", lambda model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trunk.classify(TEXTS, mix=True)
    modules = (module for member in trunk._members.values() for module in member.classifier.model.modules())
    assert not any("forward" in vars(module) for module in modules)
