"""`Keeping`: what frozen parts of a model give for texts, kept by text; `Replay` and `Features` say which parts these are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import require
from ..fingerprint import checksum
from ..handles import Restorable
from .kept import Damaged, Mapped, Rows, Writer
from .pooling import CONFIG_KEY
from .refused import BY_PADDING
from .structure import base_model

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LABELS = (
    "_name_or_path",
    "architectures",
    "id2label",
    "label2id",
    "problem_type",
    "clm_long",
    CONFIG_KEY,
)  # of a config, read above the layers


class Last:
    """What the layers gave in the last `Keeping.fill`, for the next one of the same texts, in the same batches, through the same layers.

    In other batches a text's numbers would differ by rounding; so it is all of them or none.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.made_by, self.rows, self.beside = "", Rows(0), 0


class Keeping(Restorable):
    """A handle on a model of which a frozen part runs once for each text.

    Attributes:
        model: whose frozen part runs once.
        layers: how many layers that part has.
        texts: how many texts have run through them and are kept.
        nbytes: bytes of what is kept.
        file: what `fill` has done with its file: ``"read"``, ``"written"``, or ``"written anew: ..."`` and why; empty without.
        taken_over: whether `fill` ran nothing, as another's had given all of it.
    """

    layers: int
    taken_over = False

    def __init__(self, model: nn.Module, below: dict[str, nn.Parameter], max_bytes: float):
        kind = getattr(getattr(model, "config", None), "model_type", "")
        require(kind not in BY_PADDING, "replay", "model", "one whose layers pass padding by", repr(kind))
        self.model, self.base, self.max_bytes, self.file = model, base_model(model), max_bytes, ""
        self._below = below
        self._rows = Rows(max_bytes)
        self._mapped: Mapped | None = None
        self._extra = 0  # what a subclass wants to know again beside the rows of a file
        self._versions = self._seen()
        self._filled_by = ""

    def _record(self, given: dict[str, Tensor]) -> Tensor:
        """What the frozen part gives for these texts, ``(texts, rows, width)``; of those a text keeps as many as it has tokens."""
        raise NotImplementedError

    def _told(self) -> list[Any]:
        """What the rows depend on beside their texts, weights and config."""
        return [self.layers]

    @property
    def texts(self) -> int:
        return len(self._rows) + len(self._mapped or ())

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes + (self._mapped.nbytes if self._mapped else 0)

    def fill(self, batches: Iterable[Mapping[str, Tensor]], file: str | Path = "", last: Last | None = None) -> None:
        """Runs these texts through the layers now; so what is kept does not depend on the batches of training.

        Args:
            batches: with ``input_ids`` and what else the model reads of a text, on its device; labels may stand there too.
            file: keeps what they gave for this and later calls, memory-mapped and in at most `max_bytes`; memory then takes
                only texts that are not among these. One that is damaged, or made by another model, is written anew.
            last: without a file, what another model's `fill` has left there is taken over if it is the same; this one's is left there.

        Raises:
            ValueError: if there is a folder, a pipe or a device in its place.
            OSError: if the file cannot be read or written; nothing half written is left.
        """
        texts, made_by = map(_read, batches), self._made_by()
        self._filled_by = made_by
        if not file:
            self._run(texts) if last is None else self._run_or_take_over(list(texts), made_by, last)
            return
        path, seen = Path(file), list[bytes]()
        require(
            path.is_file() or not path.exists(),
            "replay",
            "file",
            "a file or a new name",
            f"{str(path)!r}, which is a folder, a pipe or a device",
        )
        self.file = self._open(path, made_by)
        first = next((given for given in texts if not self._holds(given, seen)), None)
        if first is not None:
            self.file = "written anew: texts were missing" if self.file == "read" else self.file
            self._write(path, made_by, seen, chain([first], texts))

    def _run(self, texts: Iterable[dict[str, Tensor]]) -> None:
        for given in texts:
            self._recall(given)

    def _run_or_take_over(self, texts: list[dict[str, Tensor]], made_by: str, last: Last) -> None:
        digest = hashlib.blake2b(f"{made_by} {self.max_bytes}".encode())
        for given in texts:
            digest.update(b"".join([b"|", *_keys(given, _lengths(given))]))
        self.taken_over = last.made_by == digest.hexdigest()
        if self.taken_over:
            self._rows, self._extra = last.rows.copy(), last.beside
        else:
            last.forget()  # before the room is needed
            self._run(texts)
            last.made_by, last.rows, last.beside = digest.hexdigest(), self._rows.copy(), self._extra

    def _open(self, path: Path, made_by: str) -> str:
        try:
            self._mapped = Mapped(path, made_by)
            self._extra = self._mapped.beside
        except FileNotFoundError:
            return "written"
        except Damaged as why:
            return f"written anew: it was {why}"
        return "read"

    def _holds(self, given: dict[str, Tensor], seen: list[bytes]) -> bool:
        """Whether the file holds these texts, which then are added to `seen`."""
        keys = _keys(given, _lengths(given))
        if self._mapped is None or any(self._mapped.get(key) is None for key in keys):
            return False
        seen += keys
        return True

    def _write(self, path: Path, made_by: str, seen: list[bytes], batches: Iterable[dict[str, Tensor]]) -> None:
        """Writes the file with what it held for the texts `seen`, and with these."""
        with Writer(path, made_by, self.max_bytes) as writer:
            for key in seen:
                writer.keep(key, cast(Tensor, self._kept(key)))
            for given in batches:
                for key, row in zip(_keys(given, _lengths(given)), self._recall(given, keep=False), strict=True):
                    writer.keep(key, row)
            writer.finish(self._extra)
        self._mapped = Mapped(path, made_by)

    def _made_by(self) -> str:
        """Fingerprint of what the rows depend on beside their texts."""
        import transformers

        config = {name: value for name, value in cast(Any, self.base).config.to_dict().items() if name not in LABELS}
        device = next(iter(self._below.values())).device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        versions = torch.__version__, transformers.__version__
        told = json.dumps([config, *self._told(), device, str(autocast), *versions], default=str, sort_keys=True)
        return checksum(self._below, {"told": told})

    def keep_no_more(self) -> None:
        """Texts that are new run through the layers each time from now on; what is kept stays."""
        self.max_bytes = self._rows.max_bytes = 0

    def clear(self) -> None:
        """Forgets what was kept; a file stays."""
        self._rows, self._mapped = Rows(self.max_bytes), None

    def _seen(self) -> list[int]:
        return [parameter._version for parameter in self._below.values()]

    def _recall(self, given: dict[str, Tensor], keep: bool = True) -> list[Tensor]:
        """What the frozen part gives for each text: as it is kept, or run now."""
        if self._versions != (versions := self._seen()):
            if self._filled_by != self._made_by():  # a checkpoint that is loaded brings what was there
                self.clear()
            self._versions = versions
        lengths = _lengths(given)
        keys = _keys(given, lengths)
        rows = {key: row for key in keys if (row := self._kept(key)) is not None}
        if missing := [i for i, key in enumerate(keys) if key not in rows]:
            longest = max(lengths[i] for i in missing)
            hidden = self._record({name: tensor[missing, :longest] for name, tensor in given.items()})
            for i, row in zip(missing, hidden, strict=True):
                rows[keys[i]] = row[: lengths[i]]
                if keep:
                    self._rows.keep(keys[i], rows[keys[i]])
        return [rows[key] for key in keys]

    def _kept(self, key: bytes) -> Tensor | None:
        mapped = self._mapped.get(key) if self._mapped else None
        return self._rows.get(key) if mapped is None else mapped


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model without dropout, and as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def padded(rows: list[Tensor], given: Mapping[str, Tensor]) -> Tensor:
    """The rows of texts ``(texts, length)``, one a token, with zeros where there is none."""
    ids = given["input_ids"]
    batch = torch.zeros(*ids.shape, rows[0].shape[-1], dtype=rows[0].dtype, device=ids.device)
    for place, row in zip(batch, rows, strict=True):
        place[: len(row)] = row
    return batch


def check_inputs(given: Mapping[str, Tensor]) -> None:
    """Raises ValueError for inputs by which texts cannot be told apart."""
    unknown = sorted(given.keys() - set(INPUTS))
    expected = f"of {', '.join(INPUTS)}"
    require("input_ids" in given and not unknown, "replay", "inputs", expected, ", ".join(unknown) or "no ids")


def _read(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in INPUTS if name in batch}


def _lengths(given: Mapping[str, Tensor]) -> list[int]:
    """How many tokens each text has."""
    mask, ids = given.get("attention_mask"), given["input_ids"]
    if mask is None:
        return [ids.shape[1]] * len(ids)
    require(mask.dim() == 2, "replay", "attention_mask", "one number a token", f"the shape {tuple(mask.shape)}")
    real = mask.bool()
    before = bool((real[:, 1:] > real[:, :-1]).any())
    require(not before, "replay", "texts", "padded on the right (tokenizer.padding_side)", "padding before")
    return real.sum(1).tolist()


def _keys(given: Mapping[str, Tensor], lengths: list[int]) -> list[bytes]:
    """What tells each text of a batch from all others."""
    arrays = [given[name].cpu().numpy() for name in INPUTS if name in given and name != "attention_mask"]
    told = (b"|".join(array[i, :length].tobytes() for array in arrays) for i, length in enumerate(lengths))
    return [hashlib.blake2b(text, digest_size=16).digest() for text in told]
