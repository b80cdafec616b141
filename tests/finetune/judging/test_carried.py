"""The words that carried a label: their weights are the logit's slopes as each token's embedding grows, by finite differences."""

import pytest
import torch
from shipped import SENTENCES, TEXTS, classifier

from clm_kernels.finetune.judging.carried import WORDS, _by_token, carrying_words
from clm_kernels.finetune.split import Split

STEP = 1e-5


def slopes(model, batch, row, label, place):
    """Of the label's logit, by how much each token's embedding is stretched; in float64."""

    def logit(position, factor):
        def stretched(module, inputs, output):
            output = output.clone()
            output[row, position] *= factor
            return output

        hook = model.get_input_embeddings().register_forward_hook(stretched)
        with torch.no_grad():
            logits = model(**batch).logits[row]
        hook.remove()
        return float(logits[label] if place is None else logits[place, label])

    length = int(batch["attention_mask"][row].sum())
    return [(logit(i, 1 + STEP) - logit(i, 1 - STEP)) / (2 * STEP) for i in range(length)]


@pytest.mark.parametrize("task", ["sequence", "token"])
def test_they_are_the_slopes_of_the_logit(task):
    made = classifier(task=task)
    made.model.get_input_embeddings().weight.data.div_(20)  # else a layer norm takes nearly all of the slope away
    model = made.model.double()
    batch = made.tokenizer(TEXTS, padding=True, return_tensors="pt")
    labels, places = [0, 1, 2], None if task == "sequence" else [2, 1, 3]
    found = _by_token(model, batch, labels, places)
    assert not any(hook for hook in model.get_input_embeddings()._forward_hooks)
    for row, label in enumerate(labels):
        expected = slopes(model, batch, row, label, None if places is None else places[row])
        assert found[row, : len(expected)].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert max(map(abs, expected)) > 1e-3


@pytest.mark.parametrize("task", ["sequence", "token"])
def test_words_are_those_of_the_text_by_their_weight(task):
    made, texts = classifier(task=task), TEXTS if task == "sequence" else SENTENCES
    made.model.get_input_embeddings().weight.data.div_(20)
    split = Split(
        "", texts, ["x" if task == "sequence" else ["O"] * len(text) for text in texts], list(map(str, range(len(texts))))
    )
    labels, places = [1] * len(texts), None if task == "sequence" else [0] * len(texts)
    for text, words in zip(texts, carrying_words(made, split, labels, places), strict=True):
        own = text.split() if task == "sequence" else text
        assert {*words} <= {*own} and len(words) <= WORDS
        alone = [made.tokenizer([own], is_split_into_words=True, return_tensors="pt")]
        place = None if task == "sequence" else [alone[0].word_ids().index(0)]
        held, parts = _by_token(made.model, alone[0], [1], place)[0].tolist(), dict.fromkeys(own, 0.0)
        for i, number in enumerate(alone[0].word_ids()):
            if number is not None:
                parts[own[number]] += held[i]
        assert words == [word for word in sorted(parts, key=lambda word: -parts[word]) if parts[word] > 0][:WORDS]
