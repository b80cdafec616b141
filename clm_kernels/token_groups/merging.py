"""Makes token groups single tokens of a copy of a tokenizer, and leaves out those that would not match their own text."""

from __future__ import annotations

import copy
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..errors import require
from ..extension import NewToken
from .saving import ids_of, tokens_per_text

BY: dict[str, Callable[[Any], float]] = {
    "score": lambda group: group.score,
    "saving": lambda group: (len(group.ids) - 1) * group.total,
}
SPACES = ("Ġ", "▁")  # what pieces that hold the space before them begin with
WORD = "zq"  # stands around a group where its match is tried
AMONG_WORDS, BESIDE_PUNCTUATION = f"{WORD} {{}} {WORD}", ("{}", f"{{}}, {WORD}", f"{WORD} ({{}}).")
INSIDE_WORDS = (f"{WORD}{{}}", f"{{}}{WORD}")


@dataclass(frozen=True)
class MergedTokenizer:
    """A tokenizer in which token groups are single tokens.

    Attributes:
        tokenizer: the copy with the new tokens.
        base: the tokenizer as it was.
        tokens: the new tokens, best first, with rising ids.
        left_out: text of a group that was as good -> why it is no token.
    """

    tokenizer: Any
    base: Any
    tokens: tuple[NewToken, ...]
    left_out: dict[str, str]

    def expand(self, ids: Iterable[int]) -> list[int]:
        """The ids with every new token's pieces in its place."""
        pieces = {token.id: token.pieces for token in self.tokens}
        return [piece for i in ids for piece in pieces.get(i, (i,))]

    def report(self, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """The new tokens, what was left out, and the mean tokens of a text before and after, for each split's texts."""
        lengths = {
            split: {"before": tokens_per_text(self.base, some), "after": tokens_per_text(self.tokenizer, some)}
            for split, some in texts.items()
        }
        return {"tokens": [token.text for token in self.tokens], "left_out": self.left_out, "tokens_per_text": lengths}


def merge_groups(tokenizer, groups: Iterable, texts: Sequence[str], *, top: int = 200, by: str = "score") -> MergedTokenizer:
    """Makes the best groups of more than one piece single tokens of a copy of the tokenizer.

    A new token matches where its text stands as whole words: in mid-sentence, beside punctuation, and in any case if the
    tokenizer lower-cases. Where pieces hold the space before them (byte-level BPE, SentencePiece), it takes that space along.
    What stands at a text's beginning or behind a bracket has other pieces there and is matched too. In a tokenizer that
    puts a space before every segment (``add_prefix_space``, Metaspace ``always``), punctuation right behind a new token gets
    one.

    A group is left out, with the reason, if its text is a token already, begins with punctuation, does not occur in the
    texts, or if trying it in a few sentences shows that it does not match there, or matches inside a longer word. The
    next best one takes its place.

    Args:
        tokenizer: a fast one of transformers; it is not changed.
        groups: `TokenGroups` that were counted with this tokenizer, or any with ``ids``, ``text``, ``score``, ``total``.
        texts: where groups stand as they are written, such as the training texts.
        top: how many to merge at most.
        by: what makes a group better: ``"score"``, or ``"saving"``, the tokens that it saves.

    Raises:
        ValueError: for arguments out of range, a slow tokenizer, or if no group is left.
    """
    require(getattr(tokenizer, "is_fast", False), "merge_groups", "tokenizer", "a fast one", type(tokenizer).__name__)
    require(by in BY, "merge_groups", "by", f"one of {', '.join(BY)}", repr(by))
    require(top >= 1, "merge_groups", "top", "at least 1", top)
    ranked = sorted((group for group in groups if len(group.ids) > 1), key=lambda group: (-BY[by](group), group.ids))
    runs = dict.fromkeys(tuple(group.ids) for group in ranked)
    named = {tuple(group.ids): group.text for group in ranked}
    written, left_out = _as_written(tokenizer, texts, runs), {}
    waiting = _candidates(tokenizer, runs, named, written, left_out)
    chosen: dict[str, tuple[int, ...]] = {}
    while True:
        chosen |= dict(islice(waiting, top - len(chosen)))
        require(bool(chosen), "merge_groups", "groups", "at least one that can be merged", _why(left_out))
        merged = _with_tokens(tokenizer, chosen, left_out)
        wrong = {token.text: why for token in merged.tokens if (why := _fault(merged, token))}
        if not wrong:
            return merged
        left_out |= wrong
        chosen = {text: pieces for text, pieces in chosen.items() if text not in wrong}


def add_tokens(tokenizer, tokens: Sequence[NewToken]) -> None:
    """Gives a tokenizer these tokens, in place; nothing changes where it has them already.

    Raises:
        ValueError: if it would give them other ids, because it is another tokenizer.
    """
    _add(tokenizer, {token.text: token.lstrip for token in tokens})
    for token in tokens:
        found = tokenizer.convert_tokens_to_ids(token.text)
        require(found == token.id, "add_tokens", "tokenizer", f"the base's, where {token.text!r} gets id {token.id}", found)


def _add(tokenizer, lstrip: Mapping[str, bool]) -> None:
    from tokenizers import AddedToken

    tokenizer.add_tokens(
        [AddedToken(text, single_word=True, normalized=True, lstrip=left, special=False) for text, left in lstrip.items()]
    )


def _with_tokens(tokenizer, chosen: Mapping[str, tuple[int, ...]], left_out: dict[str, str]) -> MergedTokenizer:
    merged = copy.deepcopy(tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(next(ids_of(tokenizer, [f"{WORD} {WORD}"])))
    lstrip = any(piece.startswith(SPACES) for piece in pieces)
    _add(merged, dict.fromkeys(chosen, lstrip))
    numbers = merged.convert_tokens_to_ids(list(chosen))
    tokens = (NewToken(text, i, pieces, lstrip) for (text, pieces), i in zip(chosen.items(), numbers, strict=True))
    return MergedTokenizer(merged, tokenizer, tuple(tokens), left_out)


def _as_written(tokenizer, texts: Sequence[str], runs: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], str]:
    """How each run is mostly written in the texts, between the words around it."""
    found: dict[tuple[int, ...], Counter[str]] = defaultdict(Counter)
    by_first: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for run in runs:
        by_first[run[0]].append(run)
    for begin in range(0, len(texts), 1000):
        some = list(texts[begin : begin + 1000])
        encodings = tokenizer(some, add_special_tokens=False, verbose=False).encodings
        for text, encoding in zip(some, encodings, strict=True):
            ids = tuple(encoding.ids)
            for i, first in enumerate(ids):
                for run in by_first.get(first, ()):
                    if ids[i : i + len(run)] == run:
                        found[run][text[encoding.offsets[i][0] : encoding.offsets[i + len(run) - 1][1]].strip()] += 1
    return {run: max(counts, key=lambda text: (counts[text], text)) for run, counts in found.items()}


def _candidates(
    tokenizer, runs: Iterable[tuple[int, ...]], named: Mapping, written: Mapping, left_out: dict[str, str]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Texts and pieces that can be tokens, in order; the others go into `left_out` with the reason."""
    vocabulary, taken = set(tokenizer.get_vocab()), set()
    normalizer = tokenizer.backend_tokenizer.normalizer
    for run in runs:
        text = written.get(run, "")
        plain = normalizer.normalize_str(text).strip() if normalizer else text
        if not text:
            left_out[named[run]] = "it does not occur in the texts"
        elif {text, plain} & vocabulary:
            left_out[text] = "it is a token already"
        elif not re.match(r"\w", text):
            left_out[text] = "it begins with punctuation, which stands at the end of another word"
        elif plain not in taken:
            if run not in _runs(tokenizer, AMONG_WORDS.format(text), len(run)):  # but those at a text's beginning
                left_out[text] = "it has other pieces among words"
                continue
            taken.add(plain)
            left_out.pop(text, None)
            yield text, run


def _runs(tokenizer, text: str, length: int) -> set[tuple[int, ...]]:
    ids = next(ids_of(tokenizer, [text]))
    return {tuple(ids[i : i + length]) for i in range(len(ids))}


def _fault(merged: MergedTokenizer, token: NewToken) -> str:
    """Why a new token does not do what it is for; nothing if it does."""
    among = [AMONG_WORDS.format(token.text), AMONG_WORDS.format(token.text.upper())]
    before, upper = ids_of(merged.base, among)
    among = among if before == upper else among[:1]
    texts = [*among, *(frame.format(token.text) for frame in BESIDE_PUNCTUATION)]
    for text, ids in zip(texts, ids_of(merged.tokenizer, texts), strict=True):
        if token.id not in ids or (text in among and merged.expand(ids) != before):
            return f"it is not matched in {text!r}"
    texts = [frame.format(token.text) for frame in INSIDE_WORDS]
    for text, ids in zip(texts, ids_of(merged.tokenizer, texts), strict=True):
        if token.id in ids:
            return f"it is matched in {text!r}, inside of a word"
    return ""


def _why(left_out: Mapping[str, str]) -> str:
    text, why = next(iter(left_out.items()), ("", ""))
    return f"{len(left_out)} that cannot be ({text!r}: {why})" if text else "none of more than one piece"
