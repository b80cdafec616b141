"""Tokenizers of the three kinds, made in memory, and a corpus whose best groups are known."""

from types import SimpleNamespace

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from clm_kernels.token_groups import token_groups

SPECIAL = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
TEXTS = [
    *[(f"please {word} my direct debit, it was charged twice", "fees") for word in ("check", "see", "cancel")] * 4,
    *[(f"{word} the parcels now? my parcel was lost", "delivery") for word in ("see", "where is", "check")] * 4,
    *[("i charged it, direct is my debit and twice my parcel", "other"), ("is it lost", "other")] * 4,
]
WORDS = sorted({word for text, _ in TEXTS for word in text.replace(",", " ").replace("?", " ").split()} - {"parcels"})
PIECES = ["[PAD]", "[UNK]", ",", "?", "(", ")", ".", "##s", *WORDS]


def make_wordpiece():
    """Lower-casing."""
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


def make_bpe():
    """Byte-level, case-sensitive; pieces hold the space before them."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=alphabet, special_tokens=list(SPECIAL.values()), show_progress=False
    )
    made.train_from_iterator([text for text, _ in TEXTS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


def make_unigram():
    """SentencePiece-like."""
    pieces = ["[PAD]", "[UNK]", "▁", "s", ",", "?", "(", ")", ".", *(f"▁{word}" for word in WORDS)]
    letters = sorted({*"abcdefghijklmnopqrtuvwxyz"})
    scores = [(piece, -float(i)) for i, piece in enumerate(pieces)] + [(letter, -200.0) for letter in letters]
    made = Tokenizer(models.Unigram(scores, unk_id=1))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


MAKE = {"wordpiece": make_wordpiece, "bpe": make_bpe, "unigram": make_unigram}
__all__ = ["MAKE", "TEXTS", "group", "groups_of"]


def groups_of(tokenizer):
    return token_groups(TEXTS, tokenizer, minimum=4)


def group(tokenizer, text, score=1.0, total=1, before=""):
    """A group whose pieces are those of this text, behind another one if that makes a difference."""
    skipped = len(tokenizer(before, add_special_tokens=False)["input_ids"])
    ids = tuple(tokenizer(before + text, add_special_tokens=False)["input_ids"])[skipped:]
    return SimpleNamespace(ids=ids, text=text.strip(), score=score, total=total)
