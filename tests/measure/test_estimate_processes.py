"""`estimate` for several processes: sums that are known beforehand. What real ones exchange is held against it where they run."""

import json
import resource
import sys

import pytest
import transformers as tf
from typer.testing import CliRunner

from clm_kernels.cli import app
from clm_kernels.finetune import TrainConfig
from clm_kernels.measure.estimate import estimate
from clm_kernels.measure.estimate.processes import exchange

SIZE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 500}
BERT = tf.BertConfig(**SIZE, num_labels=5)
SMALL = TrainConfig(batch_size=4, kind="columns", density=0.05)
LENGTH = 32


@pytest.fixture(scope="module")
def one():
    return estimate(BERT, SMALL, LENGTH)


def told(one, processes, config=SMALL, **given):
    return exchange(BERT, config, LENGTH, "cpu", processes, one=one, **given)


def test_a_ring_sends_each_byte_almost_twice(one):
    eight = told(one, 8)
    assert eight.bytes == 4 * one.trained and eight.sent == 2 * 7 / 8 * eight.bytes
    assert eight.peak == one.peak + eight.bytes
    alone = told(one, 1)
    assert alone.bytes == alone.sent == 0 and alone.peak == one.peak


def test_bf16_halves_it(one):
    half = SMALL.replace(dtype="bfloat16")
    assert told(estimate(BERT, half, LENGTH), 2, half).bytes == told(one, 2).bytes / 2


def test_the_network_that_hides_it(one):
    slow, fast = (told(one, 4, tflops=speed) for speed in (1.0, 10.0))
    assert told(one, 4).gigabits is None
    assert 0 < slow.backward_flops < one.flops and slow.backward_seconds == slow.backward_flops / 1e12
    assert slow.gigabits == pytest.approx(8 * slow.sent / slow.backward_seconds / 1e9)
    assert fast.gigabits == pytest.approx(10 * slow.gigabits)


def test_a_full_backward_is_two_forwards():
    config = TrainConfig(method="full", batch_size=4)
    one = estimate(BERT, config, LENGTH)
    assert told(one, 2, config).backward_flops == pytest.approx(one.flops * 2 / 3, rel=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="counts kilobytes as Linux does")
def test_nothing_is_allocated():
    """Two layers as wide as those of a model of 70e9 parameters would take 6 GB."""
    wide = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8}
    model = tf.LlamaConfig(**wide, num_hidden_layers=2, vocab_size=32000, num_labels=3, pad_token_id=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert exchange(model, TrainConfig(batch_size=1), 8, "cuda", 8).bytes > 1e8
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6


@pytest.mark.parametrize(("name", "value"), [("processes", 0), ("tflops", 0.0), ("tflops", -1.0)])
def test_what_cannot_be(one, name, value):
    with pytest.raises(ValueError, match=rf"estimate: {name} must be"):
        told(one, **({"processes": 2} | {name: value}))


def test_the_command(tmp_path):
    BERT.save_pretrained(tmp_path)
    common = ["estimate", "--model", str(tmp_path), "--batch-size", "4", "--length", "32", "--device", "cpu"]
    found = CliRunner().invoke(app, [*common, "--processes", "2", "--tflops", "1", "--json"])
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)["processes"]
    assert all(way["processes"] == 2 and way["gigabits"] > 0 for way in document.values())
    assert document["full"]["bytes"] > 4 * document[next(name for name in document if name.startswith("sparse"))]["bytes"]
    refused = CliRunner().invoke(app, [*common, "--tflops", "1"])
    assert refused.exit_code == 2 and "tflops must be left out without processes" in refused.stderr
