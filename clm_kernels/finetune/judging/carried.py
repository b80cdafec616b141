"""Which words of a text carried the label that it was given: by how much the label's logit rises along each token's embedding.

That is the logit's gradient by the embeddings that go into the model, times these (M. Denil, A. Demiraj, N. de Freitas 2014,
arXiv 1412.6815): one forward and one backward for a text, where leaving out its words takes a forward for each. It sees little where words'
embeddings are many times larger than those of positions and a layer norm follows, which takes their length away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import DataCollatorWithPadding

from ..split import Split
from ..tasks import TASKS
from ..words.reading import Reader

if TYPE_CHECKING:
    from ..classifier import Classifier

MOST = 200  # mistakes whose words are looked for: some seconds of a small model
WORDS = 3  # of a text
BATCH = 16


def carrying_words(
    classifier: Classifier, split: Split, labels: Sequence[int], words: Sequence[int] | None = None
) -> list[list[str]]:  # fmt: skip
    """The few words of each text that carried a label most, the one that did most first.

    Args:
        split: the texts, with labels.
        labels: the number of the label of each text that is asked for.
        words: of taggers, the number of the word that has the label, which was not cut off.
    """
    task, tokenizer, limit, template = TASKS[classifier.task], classifier.tokenizer, classifier.max_length, classifier.template
    encoded = task.encode(split, None, tokenizer, limit, False, template)
    reader = Reader(task, tokenizer, encoded, limit, template)
    collate: Any = DataCollatorWithPadding(tokenizer)
    dataset, found = encoded.dataset.remove_columns("length"), list[list[str]]()
    for begin in range(0, len(split), BATCH):
        rows = range(begin, min(begin + BATCH, len(split)))
        places = None if words is None or encoded.first_tokens is None else [encoded.first_tokens[i][words[i]] for i in rows]
        batch: Any = collate(dataset[begin : begin + BATCH]).to(classifier.model.device)
        held = _by_token(classifier.model, batch, [labels[i] for i in rows], places)
        found += [_best(reader, i, own) for i, own in zip(rows, held.tolist(), strict=True)]
    return found


def _by_token(model: Any, batch: Any, labels: list[int], places: list[int] | None) -> torch.Tensor:
    """``(texts, tokens)``: gradient of each text's label's logit by each token's embedding, times that."""
    given: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        given.append(output.detach().requires_grad_())
        return given[0]

    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = model(**batch).logits
            rows = range(len(labels))
            chosen = logits[rows, labels] if places is None else logits[rows, places, labels]
            (gradient,) = torch.autograd.grad(chosen.float().sum(), given)
    finally:
        hook.remove()
    return (gradient.float() * given[0].detach().float()).sum(-1).cpu()


def _best(reader: Reader, row: int, held: list[float]) -> list[str]:
    parts: dict[str, float] = {}
    special = set(reader.special)
    for word in reader.row(row):
        if word.text not in special:
            parts[word.text] = parts.get(word.text, 0.0) + sum(held[i] for i in word.tokens)
    return [word for word in sorted(parts, key=lambda word: -parts[word]) if parts[word] > 0][:WORDS]
