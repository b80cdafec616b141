"""What weights are by their names, and linear layers of either kind: the same for whoever asks."""

import pytest
import transformers as tf
from models import COMMON, GROUPED, MORE_FAMILIES, SIZES, build
from torch import nn

from clm_kernels.models.heads import label_names, reads_text, task_by_head, task_of
from clm_kernels.models.linear import conv1d_class, is_conv1d, is_linear
from clm_kernels.models.roles import (
    Order,
    by_number,
    head_size,
    is_fused,
    linears_by_role,
    numbered,
    order_of,
    projects_positions,
    role_of,
)
from clm_kernels.models.structure import read_past_forward
from clm_kernels.patching.layers import compact_classes

CONV1D = tf.pytorch_utils.Conv1D(6, 2)


@pytest.mark.parametrize(
    ("role", "names"),
    [("query", "query q q_lin q_proj query_proj Wq"), ("key", "key k_proj K wk"), ("value", "value v v_lin"),
     ("", "c_proj out_proj qkv_proj in_proj pos_q_proj queries qq dense")],
)  # fmt: skip
def test_roles_by_the_last_part_of_a_name(role, names):
    for name in names.split():
        assert role_of(name) == role_of(f"model.layers.1.self_attn.{name}") == role
    assert role_of("query.dense") == ""


def test_fused_weights_and_the_order_in_them():
    linear = nn.Linear(2, 6)
    assert [order_of(name, linear) for name in ("a.Wqkv", "query_key_value", "in_proj")] == [
        Order.IN_TURN, Order.BY_GROUP, Order.BY_GROUP,
    ]  # fmt: skip
    assert (order_of("attn.c_attn", CONV1D), order_of("attn.c_attn", linear)) == (Order.IN_TURN, Order.UNKNOWN)
    assert all(is_fused(name) and order_of(name, linear) is Order.UNKNOWN for name in ("qkv_proj", "x.qkv"))
    assert not is_fused("q_proj") and order_of("q_proj", linear) is Order.UNKNOWN
    assert projects_positions("0.attention.pos_q_proj") and not projects_positions("position")


def test_both_askers_know_a_fused_weight_of_an_order_that_differs():
    """LoRA adapts Phi-3's whole; heads are refused there, as in the other families that use the name the order is another."""
    lora = pytest.importorskip("clm_kernels.finetune.lora")
    from clm_kernels.selecting.units.coupling import heads

    config = tf.Phi3Config(**SIZES | GROUPED, pad_token_id=0, num_labels=3, max_position_embeddings=32)
    model = tf.AutoModelForSequenceClassification.from_config(config)
    assert {name.rpartition(".")[2] for name in lora.targets(model)} == {"qkv_proj"}
    with pytest.raises(ValueError, match=r"or one of Wqkv, c_attn, query_key_value, in_proj, got"):
        heads(model)


def test_linear_layers_of_either_kind():
    compact = compact_classes()[type(CONV1D)](6, 2)
    assert is_conv1d(CONV1D) and is_conv1d(compact) and is_linear(CONV1D) and conv1d_class() is type(CONV1D)
    for module in (nn.Conv1d(1, 1, 1), nn.Embedding(2, 2), nn.Linear(1, 1)):
        assert not is_conv1d(module) and is_linear(module) == isinstance(module, nn.Linear)


QKV = ("query", "key", "value")
LINEARS = {  # family -> of its layer 1, name after the layer's number -> roles
    "bert": {
        **{f"attention.self.{role}": (role,) for role in QKV}, "attention.output.dense": ("output",),
        "intermediate.dense": ("feed_in",), "output.dense": ("feed_out",),
    },
    "distilbert": {
        "attention.q_lin": ("query",), "attention.k_lin": ("key",), "attention.v_lin": ("value",), "attention.out_lin": ("output",),
        "ffn.lin1": ("feed_in",), "ffn.lin2": ("feed_out",),
    },
    "deberta": {
        **{f"attention.self.{role}_proj": (role,) for role in QKV}, "attention.output.dense": ("output",),
        "intermediate.dense": ("feed_in",), "output.dense": ("feed_out",),
    },
    "deberta-v1": {
        "attention.self.in_proj": QKV, "attention.output.dense": ("output",),
        "intermediate.dense": ("feed_in",), "output.dense": ("feed_out",),
    },
    "modernbert": {"attn.Wqkv": QKV, "attn.Wo": ("output",), "mlp.Wi": ("feed_in",), "mlp.Wo": ("feed_out",)},
    "llama": {
        **{f"self_attn.{role[0]}_proj": (role,) for role in QKV}, "self_attn.o_proj": ("output",),
        "mlp.gate_proj": ("feed_in",), "mlp.up_proj": ("feed_in",), "mlp.down_proj": ("feed_out",),
    },
    "gpt2": {"attn.c_attn": QKV, "attn.c_proj": ("output",), "mlp.c_fc": ("feed_in",), "mlp.c_proj": ("feed_out",)},
    "gptneox": {
        "attention.query_key_value": QKV, "attention.dense": ("output",),
        "mlp.dense_h_to_4h": ("feed_in",), "mlp.dense_4h_to_h": ("feed_out",),
    },
    "opt": {
        **{f"self_attn.{role[0]}_proj": (role,) for role in QKV}, "self_attn.out_proj": ("output",),
        "fc1": ("feed_in",), "fc2": ("feed_out",),
    },
}  # fmt: skip


@pytest.mark.parametrize("family", LINEARS)
def test_linear_layers_by_role(family):
    if family == "gptneox":
        model = tf.AutoModelForSequenceClassification.from_config(tf.GPTNeoXConfig(**SIZES | COMMON))
    else:
        model = build(family)
    found = linears_by_role(model)
    assert {name.partition(".1.")[2]: roles for name, (_, roles) in found.items() if ".1." in name} == LINEARS[family]
    assert all(module is model.get_submodule(name) and (".0." in name or ".1." in name) for name, (module, _) in found.items())
    assert len(found) == 2 * len(LINEARS[family])


def test_layers_that_are_shared_stand_once_and_a_plain_head_has_no_role():
    assert sorted(roles for _, roles in linears_by_role(build("albert")).values()) == sorted(
        (role,) for role in (*QKV, "output", "feed_in", "feed_out")
    )
    assert not linears_by_role(nn.Linear(2, 2))


def test_head_sizes():
    assert head_size(build().bert.encoder.layer[0].attention.self) == head_size(build("llama").model.layers[0].self_attn) == 8
    assert head_size(nn.Linear(1, 1)) is None


@pytest.mark.parametrize("family", ["deberta", "deberta-v1"])
def test_what_is_read_past_its_forward(family):
    model = build(family)
    assert [type(module) for module in model.modules() if id(module) in read_past_forward(model)] == [nn.Embedding]
    attention = nn.MultiheadAttention(4, 2)
    assert read_past_forward(attention) == {id(attention.out_proj)}
    assert not read_past_forward(nn.Linear(1, 1))


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", *MORE_FAMILIES])
def test_heads_by_class(family):
    model = build(family)
    assert task_by_head(model) == "sequence" and reads_text(model) and label_names(model) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert task_by_head(model.base_model) == "" and not reads_text(model.base_model)


def test_tasks_by_class():
    assert (task_of("BertForTokenClassification"), task_of("T5ForSequenceClassification")) == ("token", "sequence")
    assert task_of("BertForMaskedLM") == task_of("ViTForImageClassification") == task_of("") == ""


def test_numbers_of_layers():
    shares = {"bert.encoder.layer.10.output.dense": 0.5, "h.2.attn.c_attn": 0.25, "encoder.block.2.layer.1.wi": 0.75, "wi": 1.0}
    assert numbered("bert.encoder.layer.10.output.dense") == (10, "output.dense")
    assert numbered("encoder.block.2.layer.1.wi") == (2, "layer.1.wi")
    assert list(by_number(shares).items()) == [(0, 1.0), (2, 0.5), (10, 0.5)]
