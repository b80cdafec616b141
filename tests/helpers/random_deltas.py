"""Deltas of tasks that nobody trained: a base's classifier with values drawn by chance where a task would change it."""

import torch
from models import embeddings, entries
from tiny_task import TOPICS

from clm_kernels import Delta, Recipe, Selection
from clm_kernels.delta import read
from clm_kernels.finetune.models import load
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.fingerprint import fingerprint
from clm_kernels.models.conform import recipe_of
from clm_kernels.models.structure import bias_names, depths, head_names, norm_names, weights
from clm_kernels.selecting.units.dealing import dealt
from clm_kernels.token_groups.embeddings import extend_embeddings
from clm_kernels.token_groups.merging import merge_groups

TAGS = ["B-LOC", "B-PER", "I-PER", "O"]


class Phrase:
    """What `merge_groups` takes of a token group."""

    def __init__(self, tokenizer, text):
        self.ids, self.text = tuple(tokenizer(text, add_special_tokens=False)["input_ids"]), text
        self.score = self.total = 1


def some_of(shape, kind, seed):
    if kind == "dealt":
        return dealt(shape, 8, torch.Generator().manual_seed(seed))
    return entries(shape, kind, 0.15, seed)


def random_delta(
    base, kind="dealt", seed=0, task="sequence", labels=None, pooling="mean", lowest=-1, sides="none", biases=True, norms=True,
    template="{text}", merged=(), scale=0.5,
):  # fmt: skip
    """A delta of `base`, a folder, that changes what lies at layer `lowest` or above; at infinity, the head alone."""
    labels = labels or (TAGS if task == "token" else sorted(TOPICS))
    pooling = "native" if task == "token" else pooling
    torch.manual_seed(seed)
    loaded = load(base, TASKS[task], labels, pooling, template=template, bidirectional=sides)
    model, draw, extension = loaded.model, torch.Generator().manual_seed(seed), None
    if merged:
        tokens = merge_groups(loaded.tokenizer, [Phrase(loaded.tokenizer, text) for text in merged], merged)
        extension = extend_embeddings(model, tokens).extension
    named, depth, head = weights(model), depths(model), [*head_names(model), *loaded.missing]
    lookups = embeddings(model)
    selection = Selection(
        (name, some_of(tuple(weight.shape), "rows" if name in lookups else kind, seed + i))
        for i, (name, weight) in enumerate(model.named_parameters())
        if weight.dim() == 2 and name not in head and lowest <= depth[name] < float("inf") and (name not in lookups or not merged)
    )
    selection = selection if extension is None else extension.extend(selection)
    others = (bias_names(model) if biases else set()) | (norm_names(model) if norms else set())
    whole = {name for name in others if lowest <= depth[name] < float("inf") and name not in selection} | {*head}

    def changed(tensor):
        return tensor.detach() + scale * tensor.detach().abs().mean() * torch.randn(tensor.shape, generator=draw).to(tensor.dtype)

    originals = {name: fingerprint(read(named[name], selection[name])) for name in selection}
    originals |= {name: fingerprint(named[name]) for name in whole if name not in head}
    if extension is not None:
        originals[extension.name] = extension.original
    recipe = recipe_of(model, Recipe(task=task, model=str(base), pooling=pooling, template=template, max_length=16))
    values = {name: changed(read(named[name], selection[name])) for name in selection}
    return Delta(selection, values, {name: changed(named[name]) for name in sorted(whole)}, originals, labels, recipe, extension)


def leave(delta, folder):
    """The folder of a task, as `train` leaves it."""
    folder.mkdir()
    delta.save(folder / "delta.safetensors")
    return folder
