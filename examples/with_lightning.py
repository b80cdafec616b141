"""A module of Lightning: python examples/with_lightning.py MODEL ROWS.jsonl DELTA.safetensors"""

import json
import sys
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

import clm_kernels as clm


class Intents(lightning.LightningModule):
    def __init__(self, model: torch.nn.Module, learning_rate: float):
        super().__init__()
        self.model, self.learning_rate = model, learning_rate

    def training_step(self, batch, batch_idx):
        loss = self.model(**batch).loss
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return clm.SparseAdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad], lr=self.learning_rate
        )


def main(folder: str, file: str, output: str, epochs: int = 5, learning_rate: float = 1e-3) -> float:
    lightning.seed_everything(1, verbose=False)
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    labels = sorted({row["label"] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    model = clm.set_pooling(AutoModelForSequenceClassification.from_pretrained(folder, **named), "mean").model
    dataset = [{**tokenizer(row["text"], truncation=True), "labels": labels.index(row["label"])} for row in rows]
    loader = DataLoader(dataset, 16, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))

    clm.warm_up_head(model, loader)
    handle = clm.patch(model, clm.choose(model, tokenizer, dataset), biases=True, norms=True)
    model.train()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=epochs, gradient_clip_val=1.0, **quiet)
    trainer.fit(Intents(model, learning_rate), loader)
    handle.delta(recipe=clm.Recipe(max_length=128)).save(output)
    return float(trainer.callback_metrics["loss"])


if __name__ == "__main__":
    print(f"loss {main(*sys.argv[1:]):.4f}")
