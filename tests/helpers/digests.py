"""``python digests.py FOLDER [NAME …]``: digests of runs and predictions that differ in one circumstance each, as JSON.

The folder holds what `write_base` put there; results go to a new folder beside it. What is named is left out.
"""

import hashlib
import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch

from clm_kernels import Delta, ops
from clm_kernels.finetune import Classifier, TrainConfig, train

RUNS = {  # backend, threads, seed
    "plain": ("", 1, 42),
    "again": ("", 1, 42),
    "another seed": ("", 1, 43),
    "two threads": ("", 2, 42),
    "two threads, again": ("", 2, 42),
    "reference": ("reference", 1, 42),
}
PREDICTIONS = {  # texts in a batch, threads, whether the texts come in the other order
    "plain": (64, 1, False),
    "again": (64, 1, False),
    "one by one": (1, 1, False),
    "one by one, other order": (1, 1, True),
    "batches of 5": (5, 1, False),
    "other order": (64, 1, True),
    "two threads": (64, 2, False),
}
OPTIONS = {
    "epochs": 1,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "density": 0.1,
    "select": "magnitude",
    "pooling": "mean",
    "energy": "0.99",
}


def write_base(folder: Path) -> None:
    from tiny_task import save_model, texts, write_jsonl

    def longer(count, seed):
        rows = texts(12 * count, seed)
        return [{"text": " ".join(row["text"] for row in rows[i::count]), "label": rows[i]["label"]} for i in range(count)]

    save_model(folder / "model", hidden_size=128, intermediate_size=512, max_position_embeddings=128)
    write_jsonl(folder / "train.jsonl", longer(16, 0))
    write_jsonl(folder / "validation.jsonl", longer(12, 1))


def digest(tensors) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def run(folder: Path, output: Path, backend: str, threads: int, seed: int) -> str:
    torch.set_num_threads(threads)
    files = {part: str(folder / f"{part}.jsonl") for part in ("train", "validation")}
    config = TrainConfig(model=str(folder / "model"), **files, output=str(output), seed=seed, **OPTIONS)
    with ops.backend(backend) if backend else nullcontext():
        train(config, lambda line: None)
    torch.set_num_threads(1)
    delta = Delta.load(output / "delta.safetensors")
    return digest({**delta.values, **delta.whole})


def predict(folder: Path, output: Path, batch: int, threads: int, reverse: bool) -> str:
    torch.set_num_threads(threads)
    texts = [json.loads(line)["text"] for line in (folder / "validation.jsonl").read_text().splitlines()]
    texts = [text[: 40 + 30 * i] for i, text in enumerate(texts)]
    found = list(Classifier.load(output).predict(texts[::-1] if reverse else texts, batch))
    torch.set_num_threads(1)
    found = found[::-1] if reverse else found
    return digest({"probabilities": torch.tensor([one.probability for one in found], dtype=torch.float64)})


def main(folder: str, *left_out: str) -> None:
    here, found = Path(folder), {"runs": {}, "predictions": {}}
    with tempfile.TemporaryDirectory() as place:
        for name, (backend, threads, seed) in RUNS.items():
            if name not in left_out and not any(ops.why_not(one) for one in filter(None, backend.split(","))):
                found["runs"][name] = run(here, Path(place) / name, backend, threads, seed)
                print(name, found["runs"][name], file=sys.stderr, flush=True)
        for name, how in PREDICTIONS.items():
            if name in left_out:
                continue
            found["predictions"][name] = predict(here, Path(place) / "plain", *how)
            print(name, found["predictions"][name], file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
