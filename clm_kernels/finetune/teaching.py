"""`--skip`: examples that have little left to teach are left out of their batches, and those that stay carry their weight.

How much an example teaches is the norm of its loss's gradient at the logits when it was last read, which costs no pass of its own.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import TrainerCallback

from ..defaults import LEAST_SHARE
from ..errors import require
from ..files import write_atomically
from .encode import IGNORED
from .losses import gradient_norms, weighed_loss

ROW, WEIGHT, CAME = "row", "weight", "came"  # the columns of a batch that the model does not see
LEAST = LEAST_SHARE  # the least chance to stay
STATE, LINE = "teaching.npy", "examples"
Collate = Callable[[list[dict[str, Any]]], Any]


def chances_within(norms: Tensor, noise: float, least: float = LEAST) -> Tensor:
    """With what chance each example stays, so that an epoch's gradient keeps its mean and gets no more than `noise`.

    Examples that teach as much as the threshold t, or more, stay; others stay with the chance norm / t, and weigh t / norm
    then. The expected squared error that this adds is the sum of norm (t - norm) over them; t is the largest for which it is
    within `noise` times the sum of squared norms. Among all chances of one mean these give the least error.

    Args:
        norms: ``(N,)``, of each example's gradient, not below 0.
        noise: in [0, 1).
        least: no chance is below it, which only takes error away.

    Returns:
        ``(N,)`` float64 in (0, 1].
    """
    norms = norms.double()
    ordered = norms.sort().values
    total, squares = ordered.cumsum(0), ordered.square().cumsum(0)
    budget = noise * squares[-1]
    below = ordered * total - squares <= budget  # whether the budget bears a threshold as large as this norm
    at = int(below.sum()) - 1
    if at < 0 or total[at] == 0:
        return torch.ones_like(norms)
    threshold = (budget + squares[at]) / total[at]
    return (norms / threshold).clamp(least, 1)


def chances_for(norms: Tensor, lengths: Tensor, share: float, least: float = LEAST) -> Tensor:
    """`chances_within` by which, of the tokens of all examples, this share is expected to stay.

    Args:
        norms: ``(N,)``, of each example's gradient, not below 0.
        lengths: ``(N,)``, tokens of each example.
        share: in (0, 1]; what is below `least` means that.
        least: no chance is below it.

    Returns:
        ``(N,)`` float64 in (0, 1].
    """
    norms, lengths = norms.double(), lengths.double()
    low, high = norms.min().item(), norms.max().item() / least
    if share >= 1 or high == 0:
        return torch.full_like(norms, max(least, min(1.0, share)))
    for _ in range(60):  # the share falls as the threshold rises
        threshold = (low + high) / 2
        stays = (norms / threshold).clamp(least, 1) @ lengths / lengths.sum()
        low, high = (threshold, high) if stays > share else (low, threshold)
    return (norms / high).clamp(least, 1)


class Teaching(TrainerCallback):
    """What each training example taught when it was last read, and which stay in this epoch.

    The first epoch is whole. Batches keep their order and number, and lose examples; so steps, schedule and progress bar are
    what they are without. All processes draw from the same numbers: what an epoch taught is shared at its end.

    Args:
        lengths: tokens of each example.
        chances: with what chance each example stays, by the norms that it taught.
        seed: which examples stay follows from it, the epoch and the batch alone.
        checkpoint: the one from which the run goes on, if it does.
        say: takes a line at the end of each epoch.
        label_weights: of each label's loss, if they are not all one.
        weights: of each example's loss, likewise.
    """

    def __init__(
        self,
        lengths: list[int],
        chances: Callable[[Tensor], Tensor],
        seed: int,
        checkpoint: Path | None,
        say: Callable[[str], None],
        label_weights: Tensor | None = None,
        weights: Tensor | None = None,
    ):
        self.chances, self.seed, self.say, self.label_weights, self.weights = chances, seed, say, label_weights, weights
        self.lengths = torch.tensor(lengths, dtype=torch.float64)
        table = self._load(checkpoint / STATE) if checkpoint else np.zeros((4, len(lengths)))
        # of each example: its norm, its chance in this epoch, whether it came in this epoch, whether it stayed
        self.table = self.norms, self.chance, self.came, self.stayed = torch.from_numpy(table)
        self.epoch = 0
        self._read: list[
            tuple[Tensor, Tensor, Tensor]
        ] = []  # rows, norms, and rows that came, on the device, which nobody waits for

    def collate(self, collate: Collate) -> Collate:
        """The same for batches that lose examples; what has no row number, as validation, passes."""

        def thinned(examples: list[dict[str, Any]]) -> Any:
            if ROW not in examples[0]:
                return collate(examples)
            rows = torch.tensor([example[ROW] for example in examples])
            places, weights = self.draw(rows)
            batch = collate([without_row(examples[i]) for i in places.tolist()])
            if self.weights is not None:
                weights = weights * self.weights[rows[places]]
            whole = len(places) == len(rows) and bool((weights == 1).all())
            return {**batch, ROW: rows[places], WEIGHT: weights[:0] if whole else weights / labels_of(examples), CAME: rows}

        return thinned

    def draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which places of a batch stay, and the weight of each, ``1 / chance``.

        Drawn at even distances along the batch, so that their number is what the chances add up to, give or take one. If none
        would stay, the likeliest stays with no weight.
        """
        chance = self.chance[rows]
        steps = chance.cumsum(0) + np.random.default_rng([self.seed, self.epoch, int(rows[0])]).random()
        stays = (steps.floor() > (steps - chance).floor()) | (chance >= 1)
        weights = stays / chance
        if not stays.any():
            stays[chance.argmax()] = True
        places = stays.nonzero().flatten()
        return places, weights[places].float()

    def loss(
        self, loss: Tensor, logits: Tensor, labels: Tensor, rows: Tensor, weights: Tensor, came: Tensor
    ) -> Tensor:  # fmt: skip
        """The batch's loss, in the mean as if nothing had been left out; what the examples teach is noted.

        Args:
            loss: the model's own, which is taken where nothing was left out.
            logits, labels: as `label_losses` takes them.
            rows: ``(texts,)``, of the data set.
            weights: ``(texts,)`` or empty, as `collate` gives them.
            came: rows of the whole batch. A batch that is made and never read, as the one after a run's last step, has not come.
        """
        self._read.append((rows, gradient_norms(logits.detach(), labels, self.label_weights), came))
        if not len(weights):
            return loss
        return weighed_loss(logits, labels, weights, self.label_weights)

    def on_train_begin(self, args, state, control, **kwargs):
        told = any(line["epoch"] == state.epoch for line in lines(state.log_history))
        if self.came.any() and float(state.epoch).is_integer() and not told:
            self.on_epoch_end(args, state, control)  # of which the checkpoint was made just before

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.epoch = int(state.epoch)
        if float(state.epoch).is_integer():  # else the run was resumed in the middle of it
            self.chance.copy_(self.chances(self.norms) if self.epoch else torch.ones_like(self.norms))
            self.came.zero_(), self.stayed.zero_()

    def on_epoch_end(self, args, state, control, **kwargs):
        self._share(args.device)
        examples = float(self.stayed.sum() / self.came.sum())
        tokens = float((self.stayed @ self.lengths) / (self.came @ self.lengths))
        line = {"epoch": state.epoch, "examples": examples, "tokens": tokens}
        state.log_history.append({LINE: line, "epoch": state.epoch, "step": state.global_step})
        if examples < 1:
            self.say(
                f"epoch {state.epoch:g} of {args.num_train_epochs:g}: {examples:.0%} of the examples read, the others skipped"
            )

    def on_save(self, args, state, control, **kwargs):
        self._share(args.device)
        if state.is_world_process_zero:
            content = io.BytesIO()
            np.save(content, self.table.numpy(), allow_pickle=False)
            write_atomically(Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE, content.getvalue())

    def _load(self, path: Path) -> np.ndarray:
        try:
            table, found = np.load(path, allow_pickle=False), "another table"
        except (OSError, ValueError) as error:
            table, found = np.zeros(0), str(error)
        right = table.shape == (4, len(self.lengths)) and bool(np.isfinite(table).all() and (table >= 0).all() and table[1].all())
        require(right, "train", str(path), "what each example last taught, else resume an older checkpoint", found)
        return table.astype(np.float64)

    def _share(self, device: torch.device) -> None:
        """Puts what was read into the table, of all processes."""
        for given, norms, came in self._read:
            rows = given.cpu()
            own = 1.0 if self.weights is None else self.weights[rows]
            self.norms[rows], self.stayed[rows], self.came[came.cpu()] = norms.double().cpu() * own, 1, 1
        self._read.clear()
        if dist.is_initialized() and dist.get_world_size() > 1:
            shared = torch.stack([self.norms * self.stayed, self.stayed, self.came]).to(device)
            dist.all_reduce(shared)
            norms, stayed, came = shared.to(self.norms)
            self.norms.copy_((norms / stayed).where(stayed > 0, self.norms))
            self.stayed.copy_(stayed > 0), self.came.copy_(came > 0)


def numbered(rows: Any) -> Any:
    """A data set with the number of each row, as `Teaching` and `weighed` find it by."""
    return rows.add_column(ROW, list(range(len(rows))))


def weighed(collate: Collate, weights: Tensor) -> Collate:
    """The same for batches of examples that do not all count alike; what has no row number, as validation, passes.

    Args:
        weights: of each example, one on the mean.
    """

    def of_examples(examples: list[dict[str, Any]]) -> Any:
        if ROW not in examples[0]:
            return collate(examples)
        own = weights[[example[ROW] for example in examples]]
        return {**collate([without_row(example) for example in examples]), WEIGHT: own / labels_of(examples)}

    return of_examples


def labels_of(examples: list[dict[str, Any]]) -> int:
    """How many losses the mean of a batch is of."""
    return sum(int(np.sum(np.not_equal(example["labels"], IGNORED))) for example in examples)


def without_row(example: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in example.items() if name != ROW}


def lines(log_history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """What the Trainer's log says of each epoch, as `Report.examples` has it."""
    return [entry[LINE] for entry in log_history if LINE in entry]
