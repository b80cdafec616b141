"""How deep a weight sits, whatever the order in which its modules were registered."""

import math

import transformers
from torch import nn

from clm_kernels.models.structure import depths


def test_depth_is_told_by_names_and_not_by_the_order_of_registration():
    class Base(nn.Module):
        def __init__(self, order):
            super().__init__()
            parts = {
                "embeddings": lambda: nn.ModuleDict({"word": nn.Embedding(5, 4), "norm": nn.LayerNorm(4)}),
                "layer": lambda: nn.ModuleList(nn.Linear(4, 4) for _ in range(2)),
                "norm": lambda: nn.LayerNorm(4),
                "pooler": lambda: nn.Linear(4, 4),
                "projection": lambda: nn.Linear(4, 4),
            }
            for name in order:
                self.add_module(name, parts[name]())

    class Model(nn.Module):
        base_model_prefix = "base"

        def __init__(self, order, head_first):
            super().__init__()
            for name in ("classifier", "base") if head_first else ("base", "classifier"):
                self.add_module(name, Base(order) if name == "base" else nn.Linear(4, 2))

    expected = {
        "base.embeddings.word.weight": -1, "base.embeddings.norm.weight": -1, "base.layer.0.weight": 0, "base.layer.1.weight": 1,
        "base.norm.weight": math.inf, "base.pooler.weight": math.inf, "classifier.weight": math.inf,
        "base.projection.weight": -1,  # nobody knows what it reads
    }  # fmt: skip
    order = ["embeddings", "layer", "norm", "pooler", "projection"]
    for names in (order, order[::-1], [*order[2:], *order[:2]]):
        for head_first in (False, True):
            found = depths(Model(names, head_first))
            assert {name: found[name] for name in expected} == expected


def test_numbered_tables_and_names_that_hold_emb():
    depth = depths(build_markuplm())
    assert {depth[name] for name in depth if "embeddings" in name} == {-1}


def build_markuplm():
    config = transformers.MarkupLMConfig(
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_depth=2,
        xpath_unit_hidden_size=4,
    )
    return transformers.MarkupLMForTokenClassification(config)
