"""How much PEFT's baselines train."""

import pytest
import torch
from models import SIZES
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.tasks.methods import METHODS
from clm_kernels.finetune.config import TrainConfig
from clm_kernels.models.structure import head_names
from clm_kernels.selection import Selection

pytest.importorskip("peft")
WIDTHS = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_attention_heads": 12,
    "num_hidden_layers": 1,
}  # a layer of all-MiniLM-L6-v2
LINEAR = 4 * 384 * 384 + 2 * 384 * 1536
OUTPUTS = 4 * 384 + 1536 + 384  # numbers that a linear layer gives, of all six


@pytest.mark.parametrize(
    ("method", "entries"),
    [
        ("lora", 8 * (8 * 384 + 2 * (384 + 1536))),
        ("dora", 8 * (8 * 384 + 2 * (384 + 1536)) + OUTPUTS),
        ("shira", 8 * (8 * 384 + 2 * (384 + 1536))),
        ("shira_10", 26 * (8 * 384 + 2 * (384 + 1536))),  # 10.2 %: as many of each weight as LoRA of a whole rank has
        ("supertuning", 4 * (384 * 384 // 10) + 2 * (384 * 1536 // 10)),
    ],
)
def test_they_train_as_much_as_they_say(method, entries):
    model = BertForSequenceClassification(BertConfig(**SIZES | WIDTHS, num_labels=3))
    prepared = METHODS[method].method.prepare(model, TrainConfig(learning_rate=1e-3, weight_decay=0.0), Selection())
    named = dict(model.named_parameters())
    assert prepared.trained - sum(named[name].numel() for name in head_names(model)) == entries
    if method.endswith("_10") or method == "supertuning":
        assert entries / LINEAR == pytest.approx(0.1, abs=0.002)


def test_super_tuning_trains_the_largest_entries():
    model = BertForSequenceClassification(BertConfig(**SIZES, num_labels=3))
    before = model.bert.encoder.layer[0].attention.self.query.weight.detach().clone()
    prepared = METHODS["supertuning"].method.prepare(model, TrainConfig(learning_rate=1.0, weight_decay=0.0), Selection())
    ids = torch.arange(1, 13).reshape(2, 6)
    model(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
    prepared.optimizer.step()
    layer = model.bert.encoder.layer[0].attention.self.query
    moved = (layer.get_base_layer().weight + layer.get_delta_weight("default")).ne(before)
    assert moved.sum() == 32 * 32 // 10
    assert before.abs()[moved].min() >= before.abs()[~moved].max()
