"""Reads a folder that `clm-kernels export --onnx` left, with onnxruntime, numpy and tokenizers alone: copy this file along.

classifier = OnnxClassifier("shipped")
classifier.predict(["where is my parcel"])             # [("delivery", 0.98)]; [[("delivery", 0.98), …]] where it may have several
classifier.tag([["fly", "to", "New", "York"]])         # [["O", "O", "B-city", "I-city"]], where the graph is a tagger's
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class OnnxClassifier:
    """A graph and its tokenizer.

    Args:
        folder: what the export left.
        graph: ``model.onnx``, or ``model.int8.onnx`` if it was asked for.
        threads: of one call; 0: as many as ONNX Runtime likes.
    """

    def __init__(self, folder: str | Path, graph: str = "model.onnx", threads: int = 0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(Path(folder) / graph), options, providers=["CPUExecutionProvider"])
        self.told: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.labels: list[str] = json.loads(self.told["labels"])
        self.thresholds: list[float] = json.loads(
            self.told.get("thresholds", "[]")
        )  # of each label, where a text may have several
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.tokenizer.enable_truncation(int(self.told["max_length"]))
        self.tokenizer.enable_padding(pad_id=int(self.told["pad_id"]))

    def predict(self, texts: list[str]) -> list[Any]:
        """Label and calibrated probability of each text; give it batches of texts of about one length.

        Where a text may have several labels: a list of such pairs for each text, the likeliest first, of all labels that reach
        their thresholds.
        """
        if self.told["task"] == "token":
            raise ValueError(
                "OnnxClassifier.predict: the graph must be one of whole texts, got a tagger's: use tag, with lists of words"
            )
        encoded = self.tokenizer.encode_batch([self.told["template"].replace("{text}", text) for text in texts])
        found = self._run(encoded)
        if self.thresholds:
            return [self._above(row) for row in found]
        return [(self.labels[int(row.argmax())], float(row.max())) for row in found]

    def tag(self, sentences: list[list[str]]) -> list[list[str | None]]:
        """A tag for each word, by its first token; None for words that were cut off."""
        if self.told["task"] != "token" or any(isinstance(words, str) for words in sentences):
            raise ValueError("OnnxClassifier.tag: sentences must be lists of words, and the graph a tagger's, got others")
        before = self.told["before_word"]
        encoded = self.tokenizer.encode_batch([[before + word for word in words] for words in sentences], is_pretokenized=True)
        tags: list[list[str | None]] = [[None] * len(words) for words in sentences]
        for own, encoding, rows in zip(tags, encoded, self._run(encoded), strict=True):
            for position, word in reversed(list(enumerate(encoding.word_ids))):
                if word is not None:
                    own[word] = self.labels[int(rows[position].argmax())]
        return tags

    def _above(self, row: np.ndarray) -> list[tuple[str, float]]:
        pairs = [(label, float(share)) for label, share, least in zip(self.labels, row, self.thresholds) if share >= least]
        return sorted(pairs, key=lambda pair: -pair[1])

    def _run(self, encoded: list[Any]) -> np.ndarray:
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        names = [given.name for given in self.session.get_inputs()]
        inputs = {name: np.array([getattr(one, columns[name]) for one in encoded], np.int64) for name in names}
        return self.session.run(["probabilities"], inputs)[0]
