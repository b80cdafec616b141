"""`estimate --processes N --fsdp`: sums that are known beforehand; what runs count is in `test_sharding.py`."""

import json

import pytest
import transformers as tf
from test_estimate import LLAMA
from tiny_task import save_model
from typer.testing import CliRunner

from clm_kernels.cli import app
from clm_kernels.finetune import TrainConfig
from clm_kernels.measure.estimate.divided import divided

COLUMNS = TrainConfig(batch_size=4, kind="columns", density=0.25)


def test_the_parts_of_a_base_are_those_that_can_be_counted_by_hand():
    found = divided(LLAMA, COLUMNS, 4, 32)
    layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64  # its frozen weights; the norms are trained
    embedding = 500 * 64
    assert found.forward == 4 * (3 * layer + embedding) and found.shards == found.forward / 4
    assert found.backward == 4 * 3 * layer and found.gathered == 4 * 2 * max(layer, embedding)
    columns = sum(out * round(0.25 * into) for out, into in 2 * [(64, 64)] + 2 * [(32, 64)] + 2 * [(128, 64)] + [(64, 128)])
    values = 4 * (3 * columns + 7 * 64 + 5 * 64)  # with norms and head
    assert found.reduced == values and values < found.trained < 1.05 * values
    assert found.received == 0.75 * (found.forward + found.backward + 2 * found.reduced)
    assert found.weights == found.shards + found.trained + found.gathered


def test_rows_that_cannot_be_shared_alike_are_filled_up():
    assert divided(LLAMA, COLUMNS, 3, 32).shards == 4 * (3 * (2 * 22 * 64 + 2 * 11 * 64 + 2 * 43 * 64 + 22 * 128) + 167 * 64)


def test_7_billion_weights_take_no_memory():
    """A decoder of Llama-2-7B's sizes, in bfloat16 over eight processes."""
    config = tf.LlamaConfig(vocab_size=32000, num_labels=2, pad_token_id=0, dtype="bfloat16")
    found = divided(config, TrainConfig(density=0.02), 8)
    assert found.forward == 2 * (32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096)
    assert found.shards == found.forward / 8 and found.trained < 0.05 * found.forward


def test_the_command_line_tells_it(tmp_path):
    model, told = save_model(tmp_path / "model"), tmp_path / "told.json"
    asked = ["estimate", "--model", model, "--processes", "4", "--fsdp", "--length", "16", "--device", "cpu"]
    run = CliRunner().invoke(app, [*asked, "--json"])
    assert run.exit_code == 0, run.output
    told = json.loads(run.stdout)["a_process"]
    assert told["processes"] == 4 and told["shards"] * 4 == told["forward"] and told["peak"] > told["weights"]
    run = CliRunner().invoke(app, asked)
    assert "4 processes that hold the base together" in run.output and "its part of the base" in run.output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--fsdp"], "estimate: fsdp must be left out without processes, got True"),
        (
            ["--processes", "4", "--fsdp", "--method", "full"],
            "estimate: fsdp must be left out with another method than sparse, got 'full'",
        ),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path, given, message):
    run = CliRunner().invoke(app, ["estimate", "--model", save_model(tmp_path / "model"), "--length", "16", *given])
    assert run.exit_code != 0 and message in run.output
