"""A small decoder to compare methods on, pretrained on this machine: ``python -m benchmarks.decoder_model`` prints its directory.

Qwen2's architecture and a byte-level BPE tokenizer, both trained on the texts of the eight tasks' training data: no label, no
validation and no test text is read but for the loss that is reported. Made once, then cached.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Trainer, TrainingArguments, set_seed

from clm_kernels.files import write_atomically
from clm_kernels.finetune.checkpoints import Sealing, drop_unfinished, last_checkpoint
from clm_kernels.finetune.outputs import write_folder

from .common import machine
from .tasks.tasks import TASKS, data_directory

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "clm_kernels"
RECORD, CHECKPOINTS = "pretraining.json", "checkpoints"
PAD, END = "<pad>", "<end>"
HELD_OUT = 256  # examples of held-out text that the loss is measured on, evenly spread


@dataclass(frozen=True)
class Decoder:
    """What the model is made of and how long it learns.

    Attributes:
        vocabulary: pieces of the tokenizer; fewer if the texts have not so many.
        length: tokens of a training example, in which texts follow one another.
        positions: tokens that the model can take.
        epochs: passes over the texts.
    """

    vocabulary: int = 8192
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    intermediate: int = 704
    positions: int = 512
    length: int = 128
    batch: int = 16
    epochs: float = 2
    learning_rate: float = 2e-3
    seed: int = 0


def texts_of(part: str) -> list[str]:
    """All texts of one part of the eight tasks' data.

    Raises:
        ValueError: if a data set is missing.
    """
    found = []
    for task in TASKS:
        path = data_directory() / task / f"{part}.jsonl"
        if not path.is_file():
            raise ValueError(
                f"decoder_model: {task} must be in {data_directory()} (CLM_KERNELS_DATA names another place), got no {path.name}"
            )
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        found += [row["text"] if "text" in row else " ".join(row["tokens"]) for row in rows]
    return found


def pretrained(
    decoder: Decoder = Decoder(), train: Sequence[str] | None = None, held_out: Sequence[str] | None = None, cache: Path = CACHE
) -> Path:
    """Directory of the pretrained causal language model and its tokenizer; made if it is not there yet.

    An interrupted pretraining goes on from its last checkpoint.

    Args:
        train: texts to learn from; by default those of the eight tasks' training data.
        held_out: texts for the loss that is recorded; by default those of their validation data.
        cache: folder of the models, one for each of what shapes it: settings, texts, and the code of this file.
    """
    train = texts_of("train") if train is None else train
    held_out = texts_of("validation") if held_out is None else held_out
    shaping = json.dumps([asdict(decoder), list(train), Path(__file__).read_text(encoding="utf-8")])
    folder = cache / f"decoder-{hashlib.sha256(shaping.encode()).hexdigest()[:12]}"
    if not (folder / RECORD).is_file():
        _pretrain(decoder, train, held_out, folder)
    return folder


def tokenizer_for(texts: Sequence[str], decoder: Decoder) -> PreTrainedTokenizerFast:
    """Byte-level BPE; a text's first word has a space before it like any other, so that split words give the same ids."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=decoder.vocabulary, special_tokens=[PAD, END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=PAD, eos_token=END, model_max_length=decoder.positions, add_prefix_space=True
    )


def blank(decoder: Decoder, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """The model before it has learnt anything."""
    set_seed(decoder.seed)
    return Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=decoder.hidden, num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads, num_key_value_heads=decoder.key_value_heads, intermediate_size=decoder.intermediate,
        max_position_embeddings=decoder.positions, tie_word_embeddings=True, use_cache=False, bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    ))  # fmt: skip


class Blocks(Dataset):
    """Token ids of texts one after the other, an end after each, in examples of equal length; the rest is left out."""

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, length: int):
        encoded = tokenizer.backend_tokenizer.encode_batch(list(texts))  # without a warning at each text beyond `positions`
        ids = [i for text in encoded for i in (*text.ids, tokenizer.eos_token_id)]
        self.ids = torch.tensor(ids[: len(ids) // length * length]).view(-1, length)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[i], "labels": self.ids[i]}


def _pretrain(decoder: Decoder, train: Sequence[str], held_out: Sequence[str], folder: Path) -> None:
    started = time.perf_counter()
    tokenizer = tokenizer_for(train, decoder)
    model = blank(decoder, tokenizer)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(decoder.seed))
    blocks, others = (Blocks(part, tokenizer, decoder.length) for part in ([train[i] for i in order], held_out))
    others.ids = others.ids[:: max(1, len(others) // HELD_OUT)]
    steps = math.ceil(decoder.epochs * math.ceil(len(blocks) / decoder.batch))
    every = max(1, steps // 10)
    trainer = Trainer(
        model=model, train_dataset=blocks, eval_dataset=others, callbacks=[Sealing([], {})],
        args=TrainingArguments(
            output_dir=str(folder / CHECKPOINTS), max_steps=steps, seed=decoder.seed, per_device_train_batch_size=decoder.batch,
            learning_rate=decoder.learning_rate, lr_scheduler_type="cosine", warmup_steps=0.05, weight_decay=0.01,
            save_steps=every, logging_steps=every, report_to="none", disable_tqdm=not sys.stderr.isatty(),
            use_cpu=not torch.accelerator.is_available(), dataloader_pin_memory=torch.accelerator.is_available(),
        ),
    )  # fmt: skip
    drop_unfinished(folder / CHECKPOINTS)
    last = last_checkpoint(folder / CHECKPOINTS)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    write_folder(folder, lambda beside: (model.save_pretrained(beside), tokenizer.save_pretrained(beside)))
    record = {
        "decoder": asdict(decoder), "parameters": model.num_parameters(), "pieces": len(tokenizer), "tokens": blocks.ids.numel(),
        "steps": steps, "loss": trainer.evaluate()["eval_loss"], "seconds": time.perf_counter() - started,
        "resumed": last is not None, "made_on": machine(trainer.args.device),
    }  # fmt: skip
    write_atomically(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())
    shutil.rmtree(folder / CHECKPOINTS)


if __name__ == "__main__":
    made = pretrained()
    found = json.loads((made / RECORD).read_text())
    print(
        f"{found['parameters']:,} parameters, {found['tokens']:,} tokens: loss {found['loss']:.3f} on held-out text",
        file=sys.stderr,
    )
    print(made)
