"""The loss of each label beside transformers' own, and its gradient beside autograd's."""

import needs_datasets  # noqa: F401
import pytest
import torch
from transformers import PretrainedConfig
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from clm_kernels.finetune.losses import gradient_norms, label_losses, mean_loss
from clm_kernels.finetune.teaching import Teaching


def drawn(several):
    torch.manual_seed(0)
    logits = torch.randn(5, 4, dtype=torch.float64).requires_grad_()
    return logits, (torch.rand(5, 4) < 0.4).float() if several else torch.randint(4, (5,))


@pytest.mark.parametrize("several", [False, True])
def test_their_mean_is_the_models_loss(several):
    logits, labels = drawn(several)
    kind = "multi_label_classification" if several else "single_label_classification"
    own = ForSequenceClassificationLoss(
        labels.double() if several else labels, logits, PretrainedConfig(num_labels=4, problem_type=kind)
    )
    losses = label_losses(logits, labels)
    assert losses.shape == labels.shape
    for found in (losses.mean(), mean_loss(logits, labels)):
        torch.testing.assert_close(found.double(), own)


@pytest.mark.parametrize("several", [False, True])
def test_the_norms_are_those_of_autograd(several):
    logits, labels = drawn(several)
    label_losses(logits, labels).sum().backward()
    torch.testing.assert_close(gradient_norms(logits.detach(), labels), logits.grad.norm(dim=1).float())


def test_what_stays_of_several_labels_weighs_as_in_the_whole_batch():
    """With weights of 1 over all labels of the batch, the mean as if nothing had been left out."""
    logits, labels = drawn(True)
    teaching = Teaching([3] * 5, lambda norms: norms, 0, None, print)
    teaching.chance[:] = torch.tensor([1, 1, 1, 0.5, 0.5])  # one of the last two stays
    collate = teaching.collate(lambda examples: {"labels": torch.tensor([each["labels"] for each in examples])})
    found = {}
    for teaching.epoch in range(20):
        batch = collate([{"row": i, "labels": row.tolist()} for i, row in enumerate(labels)])
        loss = teaching.loss(None, logits.detach()[batch["row"]], batch["labels"], batch["row"], batch["weight"], batch["came"])
        found[tuple(batch["row"].tolist())] = float(loss)
    assert found.keys() == {(0, 1, 2, 3), (0, 1, 2, 4)}
    assert sum(found.values()) / 2 == pytest.approx(float(mean_loss(logits.detach(), labels)))
