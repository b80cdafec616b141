"""Your own loop with Accelerate: python examples/with_accelerate.py MODEL ROWS.jsonl DELTA.safetensors"""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

import clm_kernels as clm


def main(folder: str, file: str, output: str, epochs: int = 5, learning_rate: float = 1e-3) -> float:
    torch.manual_seed(1)
    accelerator = Accelerator()
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    labels = sorted({row["label"] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    model = clm.set_pooling(AutoModelForSequenceClassification.from_pretrained(folder, **named), "mean").model
    dataset = [{**tokenizer(row["text"], truncation=True), "labels": labels.index(row["label"])} for row in rows]
    loader = DataLoader(dataset, 16, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))

    clm.warm_up_head(model, loader)
    handle = clm.patch(model, clm.choose(model, tokenizer, dataset), biases=True, norms=True)
    optimizer = clm.SparseAdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=learning_rate)
    trained, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    trained.train()
    for _ in range(epochs):
        for batch in loader:
            loss = trained(**batch).loss
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(trained.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    if accelerator.is_main_process:
        handle.delta(recipe=clm.Recipe(max_length=128)).save(output)
    return loss.item()


if __name__ == "__main__":
    print(f"loss {main(*sys.argv[1:]):.4f}")
