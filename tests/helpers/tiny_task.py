"""A tiny model on disk with its tokenizer, and labelled files that it can learn."""

import json
import random
from pathlib import Path

from models import build
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOPICS = {"billing": ["refund", "invoice"], "delivery": ["parcel", "courier"], "access": ["login", "password"]}
FILLERS = ["my", "the", "please", "where", "is", "a", "with", "about", "it", "now"]
PIECES = ["##s", "##ing", "paris", "rome", "anna", "bob", "lives", "in", "meets", "smith"]


def tokenizer(length=512):
    """Lower-casing WordPiece over the words of this file."""
    vocabulary = [*SPECIAL, *(word for words in TOPICS.values() for word in words), *FILLERS, *PIECES]
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=length, **names)


def byte_tokenizer():
    """Byte-level BPE as decoders have it: nothing to pad with but the end-of-text token, which ends every text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=380, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False, min_frequency=1
    )
    known = [*(word for words in TOPICS.values() for word in words), *FILLERS, *PIECES[2:], *map(str.title, PIECES[2:])]
    made.train_from_iterator([f" {word}" for word in known], trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", padding_side="left")


def save_model(folder: Path, family="bert", seed=0, made=None, **changes) -> str:
    """A base model without a head, as pretrained checkpoints are; it tells words well apart."""
    model = build(family, seed=seed, dropout=0.1, **changes)
    model.get_input_embeddings().weight.data.mul_(20)
    model.base_model.save_pretrained(folder)
    (made or tokenizer()).save_pretrained(folder)
    return str(folder)


def without_dropout(folder: Path) -> str:
    """A saved model's folder, told to drop nothing: processes draw their own, so that several can be compared with one."""
    config = json.loads((folder / "config.json").read_text())
    config |= {name: 0.0 for name in config if "dropout" in name}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def texts(count: int, seed: int) -> list[dict]:
    """Texts whose label is the topic of the one word that is no filler."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        label = sorted(TOPICS)[i % 3]
        words = [*draw.choices(FILLERS, k=draw.randrange(1, 4)), draw.choice(TOPICS[label])]
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "label": label})
    return rows


def sentences(count: int, seed: int) -> list[dict]:
    """Words with IOB2 tags of people and places."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        person = draw.choice([["Anna"], ["Bob"], ["Anna", "Smith"]])
        place = draw.choice(["Paris", "Rome"])
        rows.append({
            "tokens": [*person, "lives", "in", place],
            "tags": [*["B-PER", "I-PER"][:len(person)], "O", "O", "B-LOC"],
        })  # fmt: skip
    return rows


def write_jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_data(folder: Path, make=texts, count=48) -> dict[str, str]:
    """train, validation and test files, by the names of TrainConfig's fields."""
    sizes = {"train": count, "validation": 18, "test": 18}
    return {part: write_jsonl(folder / f"{part}.jsonl", make(size, seed)) for seed, (part, size) in enumerate(sizes.items())}


def several(count: int, seed: int) -> list[dict]:
    """Texts with a word of each of their topics, of which there are none to three, in lists."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        labels = [label for label in sorted(TOPICS) if draw.random() < 0.4]
        words = [*draw.choices(FILLERS, k=2), *(draw.choice(TOPICS[label]) for label in labels)]
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "labels": labels})
    return rows
