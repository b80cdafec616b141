"""Which words carry the gradient: what is seen of single batches, whose words they are, and what a run records."""

import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from interruption import press_ctrl_c
from models import batch, build, select
from tiny_runs import FAST, assert_same, silent, trained_tensors
from tiny_task import FILLERS, PIECES, TOPICS, byte_tokenizer, save_model, sentences, tokenizer, write_data
from tokenizers import AddedToken

import clm_kernels as clm
from clm_kernels.finetune import TrainConfig, recipe, train
from clm_kernels.finetune.split import Split
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.finetune.words import reading, recording, watching
from clm_kernels.finetune.words.reading import Reader
from clm_kernels.finetune.words.recording import Recorder, window_of
from clm_kernels.finetune.words.rows import Rows
from clm_kernels.finetune.words.table import ActiveWords
from clm_kernels.finetune.words.tally import Tally
from clm_kernels.finetune.words.watching import Batch, Watch
from clm_kernels.patching.active import by_energy

# One batch


def test_what_tokens_hold_adds_up_to_1_in_every_layer_and_step(monkeypatch):
    model, seen = build(), []
    handle = clm.patch(model, select(model), energy=0.8)
    original = watching.shares
    monkeypatch.setattr(watching, "shares", lambda dy, index: seen.append((dy, index, original(dy, index))) or seen[-1][2])
    with Watch(model, handle.active) as watch:
        for step in range(2):
            model(**batch(model, seed=step)).loss.backward()
    assert len(seen) == 2 * len(handle.active) > 0 and len(watch.batches) == 2
    for dy, index, held in seen:
        active = index[index < len(dy)]
        norms = dy.double().square().sum(1)
        assert 0 < len(active) < len(dy) and held.sum().item() == pytest.approx(1)
        torch.testing.assert_close(held[active], norms[active] / norms[active].sum())
        assert held.count_nonzero() == len(active)
    for watched, layers in zip(watch.batches, (seen[: len(seen) // 2], seen[len(seen) // 2 :]), strict=True):
        rows = list(watched.rows())
        mean = (sum(held for *_, held in layers) / len(layers)).view(4, 7)
        assert [len(ids) for ids, *_ in rows] == [5, 7, 7, 7]
        assert [held for *_, held in rows] == [pytest.approx(mean[i, : len(ids)].tolist()) for i, (ids, *_) in enumerate(rows)]
        assert sum(sum(held) for *_, held in rows) == pytest.approx(1)


def test_watching_leaves_gradients_alone_and_goes_away():
    gradients = []
    for watched in (False, True):
        model = build()
        handle = clm.patch(model, select(model), energy=0.8)
        with Watch(model, handle.active) if watched else nullcontext():
            model(**batch(model)).loss.backward()
        gradients.append({name: values.grad for name, values in handle.values.items()})
        assert handle.active.choose is by_energy and not model._forward_pre_hooks
    assert_same(*gradients)


def test_a_validation_is_not_seen():
    model = build()
    handle = clm.patch(model, select(model), energy=0.8)
    with Watch(model, handle.active) as watch, torch.no_grad():
        model(**batch(model))
    assert watch.batches == []


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_of_a_gradient_of_zeros_or_with_nan_nothing_is_held(value):
    dy = torch.zeros(3, 2)
    dy[1, 1] = value
    assert watching.shares(dy, torch.arange(3)).tolist() == [0, 0, 0]


def test_a_model_that_leaves_padding_out_gives_the_same():
    ids, mask = torch.arange(6).view(2, 3), torch.tensor([[1, 1, 1], [1, 1, 0]])
    padded, packed = (Batch(ids, mask, torch.tensor([0, 1])) for _ in range(2))
    padded.add(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0, 0.0]))
    packed.add(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0]))
    packed.add(torch.ones(4))  # of something else than tokens
    assert list(padded.rows()) == list(packed.rows())


# Words


def reader(name, made, text, label, length=16, template="{text}"):
    task, names = TASKS[name], sorted({label} if isinstance(label, str) else set(label))
    encoded = task.encode(Split("", [text], [label], [0]), names, made, length, False, template)
    return Reader(task, made, encoded, length, template)


def test_words_of_a_text_in_a_template():
    read = reader("sequence", tokenizer(), "Refunds with password, please", "billing", 9, "my {text} now")
    words = read.row(0)
    assert [word.text for word in words] == [
        "[CLS]",
        "my",
        "Refunds",
        "with",
        "password",
        ",",
        "now",
        "[SEP]",
    ]  # what is cut is cut
    assert words[2] == reading.Word("Refunds", "refunds", "billing", [2, 3])
    assert {word.label for word in words} == {"billing"} and "[CLS]" in read.special and words[0].key == "[CLS]"
    ids = read._encoded.dataset["input_ids"][0]
    assert read.find(ids, 0) == words and read.find(ids, 1) == [] and read.find(ids[1:], 0) == []


def test_words_with_tags():
    words = reader("token", tokenizer(), ["Anna", "Smiths", "lives"], ["B-PER", "I-PER", "O"]).row(0)
    found = [(word.text, word.key, word.label) for word in words]
    special = [(name, name, "O") for name in ("[CLS]", "[SEP]")]
    assert found == [special[0], ("Anna", "anna", "PER"), ("Smiths", "smiths", "PER"), ("lives", "lives", "O"), special[1]]


def test_words_of_other_tokenizers():
    words = reader("sequence", byte_tokenizer(), "Where is my refund", "a", 32).row(0)
    assert [word.key for word in words] == ["Where", "is", "my", "refund", "</s>"]
    merged = tokenizer()
    merged.add_tokens([AddedToken("my refund", single_word=True, normalized=True)])
    words = reader("sequence", merged, "where is my refund now", "a").row(0)
    assert [word.text for word in words] == ["[CLS]", "where", "is", "my refund", "now", "[SEP]"]
    encoding = SimpleNamespace(offsets=[(0, 2), (2, 5), (5, 7)], tokens=[])  # a tokenizer that knows no words
    assert list(reading._between_spaces(encoding, [0, 1, 2], "ab cd ef")) == [("ab", [0]), ("cd", [1]), ("e", [2])]


def test_a_word_holds_what_all_of_its_tokens_hold():
    read = reader("sequence", tokenizer(), "my refunds my", "billing")  # [CLS] my refund ##s my [SEP]
    ids = torch.tensor(list(read._encoded.dataset["input_ids"]))
    seen = Batch(ids, torch.ones_like(ids), torch.tensor([0]))
    for layer in ([0.1, 0.1, 0.3, 0.3, 0.2, 0.0], [0.0, 0.3, 0.1, 0.3, 0.3, 0.0]):
        seen.add(torch.tensor(layer, dtype=torch.float64))
    tally = Tally()
    tally.add([seen], read)
    held = {"[CLS]": [0.05, 1], "my": [0.45, 2], "refunds": [0.5, 1], "[SEP]": [0.0, 1]}
    assert tally.batches == 1 and tally.words == {"billing": {word: pytest.approx(sums) for word, sums in held.items()}}


def test_shares_of_a_label():
    early = Tally(0, 2, {"a": {"x": [0.5, 2], "y": [1.5, 3], "[CLS]": [2.0, 4]}, "b": {"x": [0.0, 1]}})
    late = Tally(6, 2, {"a": {"y": [1.0, 1]}, "b": {"x": [1.0, 2]}})
    words = ActiveWords.of(early, late, "0.9", ["[CLS]", "[SEP]"])
    assert {w.word: (w.early, w.late, w.seen) for w in words.by_label["a"]} == {
        "y": (0.375, 1.0, 4), "[CLS]": (0.5, 0.0, 4), "x": (0.125, 0.0, 2),
    }  # fmt: skip
    assert words.best() == {"a": ["y", "x"], "b": ["x"]} and words.special == ["[CLS]"]
    assert words.rest("a").early == 0.5 and words.rest("b") is None
    unseen = ActiveWords.of(None, late, "0.9")
    assert unseen.by_label["a"][0].early is None and unseen.batches == {"early": 0, "late": 2}


def test_words_are_read_as_they_were_saved(tmp_path):
    words = ActiveWords.of(None, Tally(6, 2, {"a": {"ü": [1.0, 1]}}), "0.9")
    words.save(tmp_path / "words.json")
    assert ActiveWords.load(tmp_path / "words.json") == words
    for content in ("[]", '{"format": "another"}', "{"):
        (tmp_path / "words.json").write_text(content)
        with pytest.raises(ValueError, match=r"ActiveWords.load: .*words.json' must be words as `save` writes them"):
            ActiveWords.load(tmp_path / "words.json")


# Runs


@pytest.mark.parametrize(
    ("steps", "epochs", "patience", "begins"),
    [
        (6, 3, False, [0, 0, None, None, 4, 4]),
        (6, 3, True, [0, 0, 2, 2, 4, 4]),
        (5, 1.5, False, [0, 0, 0, 3, 3]),
        (5, 1, False, [0, 0, 0, 3, 3]),
        (5, 1, True, [0, 0, 0, 3, 3]),
        (1, 0.2, False, [0]),
    ],
)
def test_which_steps_are_watched(steps, epochs, patience, begins):
    assert [window_of(step, steps, epochs, patience) for step in range(steps)] == begins


OTHERS = [*FILLERS, *PIECES[2:]]


def one_word(count, seed):
    """Texts whose label hangs on one word; the other one of each is another in the next."""
    for i in range(count):
        label, other = sorted(TOPICS)[i % 3], OTHERS[(i // 3 + seed) % len(OTHERS)]
        yield {"text": f"{other} {TOPICS[label][0]}", "label": label}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A config whose run has ended, and its report."""
    folder = tmp_path_factory.mktemp("words")
    data = write_data(folder, one_word)
    config = TrainConfig(model=save_model(folder / "model"), **data, **FAST, energy="0.9", output=str(folder / "out"))
    return config, train(config, silent)


def recorded(config):
    return ActiveWords.load(f"{config.run.output}/active_tokens.json")


def test_a_word_on_which_a_label_hangs_is_on_top(run):
    config, report = run
    words = recorded(config)
    assert words.batches == {"early": 6, "late": 6} and words.energy == "0.9" and words.special == ["[CLS]", "[SEP]"]
    assert words.by_label.keys() == TOPICS.keys()
    for label, (word, other) in TOPICS.items():
        top = words.words(label, 1)[0]
        assert top.word == word and top.seen == 32 and report.words[label][0] == word
        assert other not in {w.word for w in words.by_label[label]}
        for part in ("early", "late"):
            assert sum(getattr(w, part) for w in words.by_label[label]) == pytest.approx(1)
    assert json.loads((recipe.Path(config.run.output) / "report.json").read_text())["words"] == report.words


def test_a_run_that_is_not_watched_has_the_same_bits(run, tmp_path, monkeypatch):
    config = replace(run[0], output=str(tmp_path / "out"))
    monkeypatch.setattr(recipe, "_recording", lambda *_: nullcontext())
    report = train(config, silent)
    assert_same(trained_tensors(config.run.output), trained_tensors(run[0].run.output))
    assert report.words == {} and not (tmp_path / "out" / "active_tokens.json").exists()


@pytest.mark.parametrize("step", [4, 15])
def test_a_resumed_run_has_seen_what_one_without_a_break_has(run, tmp_path, monkeypatch, step):
    """Interrupted in the first epoch, and in the last."""
    config = replace(run[0], output=str(tmp_path / "out"))
    with monkeypatch.context() as context:
        press_ctrl_c(context, step)
        with pytest.raises(KeyboardInterrupt):
            train(config, silent)
    train(TrainConfig(output=config.run.output, resume=True), silent)
    assert recorded(config) == recorded(run[0])


def test_a_checkpoint_without_words_is_said(tmp_path):
    said = []
    model = build()
    handle = clm.patch(model, select(model), energy=0.8)
    recorder = Recorder(model, handle.active, SimpleNamespace(special=[]), False, tmp_path, said.append)
    assert recorder.early is None and "in the first epoch is left out" in said[0] and len(said) == 1


def test_tags_with_accumulation_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "BATCHES", 3)
    data = write_data(tmp_path, sentences)
    options = FAST | {"epochs": 2, "gradient_accumulation": 2}
    train(
        config := TrainConfig(model=save_model(tmp_path / "model"), **data, **options, energy="0.9", output=str(tmp_path / "o")),
        silent,
    )
    words = recorded(config)
    assert words.batches == {"early": 3, "late": 3}
    assert {w.word for w in words.by_label["LOC"]} == {"paris", "rome"}
    assert {w.word for w in words.by_label["O"]} == {"lives", "in", "[CLS]", "[SEP]"}
    assert {w.seen for w in words.by_label["O"]} == {48}


def test_without_energy_nothing_is_recorded(run, tmp_path):
    train(replace(run[0], energy="1", epochs=1, output=str(tmp_path / "out")), silent)
    assert not (tmp_path / "out" / "active_tokens.json").exists()


def test_rows_are_found_by_ids_and_labels():
    from datasets import Dataset

    rows = {"input_ids": [[5, 6], [5], [-1], [-2], [5, 6], [7]], "labels": [0, 0, 1, 1, 0, 3]}
    found = Rows(Dataset.from_dict(rows))
    assert hash(((-1,), 1)) == hash(((-2,), 1))  # two rows share a hash, and are told apart
    asked = [([5, 6], 0), ([5], 0), ([-1], 1), ([-2], 1), ([7], 3), ([5, 6], 1), ([6, 5], 0), ([-3], 1)]
    assert [found.find(*one) for one in asked] == [4, 1, 2, 3, 5, None, None, None]
    tagged = Rows(Dataset.from_dict({"input_ids": [[5, 6], [5, 6]], "labels": [[-100, 1], [-100, 2]]}))
    assert [tagged.find([5, 6], [-100, tag]) for tag in (1, 2, 3)] == [0, 1, None]
