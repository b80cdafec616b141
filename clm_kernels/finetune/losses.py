"""The loss of each label, by what labels a batch has: numbers, one of which is right, or a row of 0 and 1, any of which may be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .encode import IGNORED


def label_losses(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """A loss for each label, in float32, 0 where there is none; the model's own loss is their mean over those that there are.

    Args:
        logits: ``(texts, labels)`` or ``(texts, length, labels)``.
        labels: numbers, ``(texts,)`` or ``(texts, length)``, for cross entropy; or ``(texts, labels)``, floating, for the binary
            one of each.
        weights: of each label, ``(labels,)``, where labels are numbers.

    Returns:
        Of the shape of `labels`.
    """
    logits = logits.float()
    if labels.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), weights, ignore_index=IGNORED, reduction="none")
    return losses.view(labels.shape)


def mean_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean of `label_losses`, over the labels that there are."""
    if weights is not None:
        return label_losses(logits, labels, weights).sum() / (labels != IGNORED).sum()
    if labels.is_floating_point():
        return label_losses(logits, labels).mean()
    return F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def weighed_loss(logits: Tensor, labels: Tensor, examples: Tensor, weights: Tensor | None = None) -> Tensor:
    """The sum of `label_losses`, each multiplied by its example's weight.

    Args:
        examples: weights, ``(texts,)``.
    """
    return label_losses(logits, labels, weights).view(len(examples), -1).sum(1) @ examples


def gradient_norms(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Norm of each text's gradient of the summed loss at its logits, ``(texts,)``.

    Args:
        logits, labels, weights: as `label_losses` takes them.
    """
    logits = logits.float()
    if labels.is_floating_point():
        return (logits.sigmoid() - labels).norm(dim=1)
    gradient = logits.softmax(-1)
    gradient.scatter_add_(-1, labels.clamp(min=0)[..., None], torch.full_like(gradient[..., :1], -1))
    if weights is not None:
        gradient *= weights[labels.clamp(min=0)][..., None]
    return gradient.where((labels != IGNORED)[..., None], 0).flatten(1).norm(dim=1)
