"""How an epoch's examples are dealt to processes: `Rounds` against sums over what one process would do."""

import itertools
import math

import pytest

from clm_kernels.finetune.processes.last_step import FILLER, IDLE, Rounds, real_rows, without_fillers
from clm_kernels.finetune.teaching import ROW

DEALT = list(itertools.product((1, 7, 16, 17, 50, 64), (1, 4, 8), (2, 3, 4), (1, 2)))


@pytest.mark.parametrize(("examples", "batch", "processes", "accumulation"), DEALT)
def test_real_batches_count_as_in_one_process(examples, batch, processes, accumulation):
    """Over processes and rounds of a step, the weights of batches that hold something are those of a mean over these."""
    rounds = Rounds(examples, batch, processes, accumulation)
    assert rounds.filled % (batch * processes) == 0 and 0 <= rounds.filled - examples < batch * processes
    batches = math.ceil(examples / batch)  # as one process deals them
    steps = math.ceil(batches / (processes * accumulation))
    for step in range(2 * steps):
        first = step % steps * processes * accumulation
        real = min(processes * accumulation, batches - first)
        taken = min(accumulation, rounds.filled // (batch * processes) - step % steps * accumulation)
        assert rounds.weight(step) / (taken * processes) == pytest.approx(1 / real)


def test_fillers_go_and_a_batch_of_them_is_marked():
    def collate(examples):
        assert all(ROW not in example for example in examples)
        return {"input_ids": [example["input_ids"] for example in examples]}

    examples = [{"input_ids": i, ROW: i if i < 3 else FILLER} for i in range(5)]
    real = without_fillers(collate, None)
    assert real(examples) == {"input_ids": [0, 1, 2]}
    assert real(examples[3:]) == {"input_ids": [3], IDLE: True}
    assert without_fillers(collate, lambda kept: kept)(examples) == examples[:3]
    assert without_fillers(collate, lambda kept: kept)(examples[3:]) == {"input_ids": [3], IDLE: True}
    validation = [{"input_ids": 1}]
    assert without_fillers(collate, lambda kept: kept)(validation) == {"input_ids": [1]}


def test_each_text_is_judged_once():
    for texts, size, processes in ((18, 4, 2), (16, 4, 2), (3, 4, 4), (17, 4, 4)):
        real = [real_rows(texts % (size * processes), rank, size) for rank in range(processes)]
        assert sum(real) == (texts % (size * processes) or size * processes)
