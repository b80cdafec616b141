"""What is made of logits: calibrated probabilities, the next best labels, and no label where none can be trusted."""

import pytest
import torch

from clm_kernels.finetune.judging.calibration import Calibration, Kept
from clm_kernels.finetune.judging.ranking import Ranking
from clm_kernels.finetune.tasks import TASKS

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.1, 0.0]])


def test_without_a_calibration_it_is_the_softmax_bit_for_bit():
    probabilities, numbers = Ranking().best(LOGITS)
    expected = LOGITS.softmax(-1).max(-1)
    assert torch.equal(probabilities, expected.values) and torch.equal(numbers, expected.indices)


@pytest.mark.parametrize("temperature", [0.01, 0.4, 3.0, 100.0])
def test_a_temperature_changes_probabilities_and_no_label(temperature):
    logits = torch.randn(200, 7, generator=torch.Generator().manual_seed(0))
    probabilities, numbers = Ranking(temperature).best(logits)
    assert torch.equal(numbers, logits.argmax(-1))
    torch.testing.assert_close(probabilities, (logits.double() / temperature).softmax(-1).amax(-1).float())


def test_labels_whose_probabilities_round_to_the_same_keep_their_order():
    logits = torch.tensor([[90.0, 91.0, 0.0]])
    assert Ranking(100.0).best(logits.half())[1].tolist() == [1]
    assert Ranking(0.01).best(torch.tensor([[1e30, 2e30, 0.0]]))[1].tolist() == [1]


def test_the_best_come_in_order():
    probabilities, numbers = Ranking(0.5, top=2).best(LOGITS)
    assert numbers.tolist() == [[0, 2], [1, 0]]
    torch.testing.assert_close(probabilities, (LOGITS / 0.5).softmax(-1).gather(-1, numbers))


@pytest.mark.parametrize("top", [0, -1, 4, 1.5, True, "2"])
def test_a_number_of_labels_that_cannot_be_is_refused(top):
    with pytest.raises(ValueError, match=r"^predict: top must be a whole number from 1 to 3, the number of labels, got "):
        Ranking.of(Calibration(), TASKS["sequence"], 3, top, None)


@pytest.mark.parametrize(("top", "reject", "named"), [(2, None, "top"), (1, 0.9, "reject")])
def test_tags_take_neither(top, reject, named):
    table = Calibration(1.0, 1, (Kept(0.1, 1, 1),))
    with pytest.raises(ValueError, match=rf"^predict: {named} must be left out for tags"):
        Ranking.of(table, TASKS["token"], 3, top, reject)
    assert Ranking.of(table, TASKS["token"], 3, 1, None) == Ranking()
