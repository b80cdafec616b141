"""What several processes take that train one model together, each with all of it: memory, exchange, and the network for that."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from transformers import PretrainedConfig

from ...errors import require
from ...finetune.config import TrainConfig
from ..subject import batch, build, prepare, resolved
from . import Estimate, estimate
from .kernels import KernelsOf
from .ledger import Ledger
from .operations import flops

__all__ = ["Exchange", "exchange"]


@dataclass(frozen=True)
class Exchange:
    """Of one optimizer step, in each of some processes.

    Attributes:
        processes: how many.
        peak: the most bytes that there are at a time in each: those of one process, and a second copy of the gradients, in
            which DDP adds them up.
        bytes: of the gradients, which are what is exchanged.
        sent: what each process sends, and as much it receives, where they add up in a ring.
        backward_flops: of the products in a backward pass, recomputation included.
        backward_seconds: what that takes at the given speed; None without one.
        gigabits: network in 10^9 bits a second, in each direction of each process, at which the exchange takes as long as the
            backward, within which all but the last bucket of gradients is sent; None without a speed.
    """

    processes: int
    peak: int
    bytes: int
    sent: int
    backward_flops: int
    backward_seconds: float | None = None
    gigabits: float | None = None

    def as_dict(self) -> dict[str, int | float | None]:
        return asdict(self)


def exchange(
    model: PretrainedConfig, config: TrainConfig, length: int, device: str, processes: int,
    tflops: float | None = None, one: Estimate | None = None,
) -> Exchange:  # fmt: skip
    """Counts on the meta device what processes exchange that hold all of a model, as DDP does it.

    Args:
        model, config, length, device: as `estimate` takes them; the batch size is that of each process.
        processes: how many.
        tflops: 10^12 operations a second that one process reaches in these products; it depends on device, dtype and model, and is
            to be measured (`clm-kernels profile`) or taken from somebody who has.
        one: what `estimate` says of one process, if that is known already.

    Raises:
        ValueError: as `estimate`, and for a number of processes below 1 or a speed that is not above 0.
    """
    require(processes >= 1, "estimate", "processes", "1 or more", processes)
    require(tflops is None or tflops > 0, "estimate", "tflops", "above 0", tflops)
    one = one or estimate(model, config, length, device)
    config = resolved(config, model, length, "estimate")
    called, inputs = prepare(build(model, config, "meta"), config).model, batch(config, length, "meta")
    nbytes = sum(parameter.nbytes for parameter in called.parameters() if parameter.requires_grad)
    with KernelsOf(device), Ledger():
        backward = one.flops - flops(lambda: called(**inputs), 1.0)
    sent = round(2 * (processes - 1) / processes * nbytes)
    copied = nbytes if processes > 1 else 0
    seconds = None if tflops is None else backward / (tflops * 1e12)
    gigabits = None if seconds is None else 8 * sent / seconds / 1e9
    return Exchange(processes, one.peak + copied, nbytes if processes > 1 else 0, sent, backward, seconds, gigabits)
