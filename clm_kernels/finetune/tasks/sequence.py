"""Sequence classification: a label for every text."""

from __future__ import annotations

from ..encode import Encoded, longest_first, with_lengths
from ..metrics import accuracy, macro_f1
from ..templates import TEXT, fill
from .base import Prediction, Task, read_label, read_text


class SequenceClassification(Task):
    auto = "AutoModelForSequenceClassification"
    architecture = "ForSequenceClassification"
    peft = "SEQ_CLS"
    problem = "single_label_classification"

    def columns(self, data):
        return data.text_column, data.label_column

    def read(self, row, columns, place, labelled):
        text, label = columns
        return read_text(row[text], place + text), read_label(row[label], place + label) if labelled else None

    def read_line(self, line):
        return line

    def label(self, label):
        return [label]

    def stratum(self, label):
        return label

    def encode(self, split, label_names, tokenizer, max_length, sort, template=TEXT):
        if sort:
            split = longest_first(split, len)
        texts, shortened = split.texts, 0
        if template != TEXT:
            texts, shortened = fill(template, texts, tokenizer, max_length)
        batch = tokenizer(texts, truncation=True, max_length=max_length)
        columns = with_lengths(batch)
        if label_names is not None:
            number = {name: i for i, name in enumerate(label_names)}
            columns["labels"] = [number[label] for label in split.labels]
        cut = shortened + sum(bool(encoding.overflowing) for encoding in batch.encodings)
        return Encoded.of(columns, split, None, cut)

    def collate(self, tokenizer):
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def scores(self, label_names):
        return "accuracy", "macro_f1"

    def score(self, encoded, label_names):
        gold = encoded.split.labels

        def compute(result):
            predicted = [label_names[i] for i in result.predictions]
            return {"accuracy": accuracy(gold, predicted), "macro_f1": macro_f1(gold, predicted)}

        return compute

    def decode(self, encoded, i, numbers, probabilities, label_names):
        return Prediction(encoded.split.texts[i], label_names[int(numbers)], float(probabilities))

    def write(self, prediction):
        return f"{prediction.label}\t{prediction.probability:.4f}\t{' '.join(prediction.text.split())}"
