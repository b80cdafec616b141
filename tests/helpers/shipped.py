"""Tiny classifiers that were never trained, for tests of what is exported of them."""

from models import build
from tiny_task import TOPICS, tokenizer

from clm_kernels.finetune import Classifier
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.models.pooling import set_pooling

TEXTS = ["where is my parcel", "refund", "the login is please with a courier now about it"]
SENTENCES = [["anna", "lives", "in", "paris"], ["bobs", "meets"]]


def classifier(family="bert", pooling="mean", task="sequence", **changes):
    """With the labels of `tiny_task`, and logits that differ."""
    names = sorted(TOPICS)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    known = {"problem_type": TASKS[task].problem} if TASKS[task].several else {}
    auto = "token" if TASKS[task].per_token else "sequence"
    model = build(family, task=auto, **{"pad_token_id": 0} | labels | known | changes).eval()
    model.get_input_embeddings().weight.data.mul_(20)
    if auto == "sequence":
        set_pooling(model, pooling)
    return Classifier(model, tokenizer(), TASKS[task], 24)
