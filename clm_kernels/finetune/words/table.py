"""`ActiveWords`: for each label, the words that carry the gradient."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ...errors import require
from ...files import write_atomically
from ...strangers import MEGABYTE, fits, read_json
from .tally import Tally

FORMAT = "clm_kernels.active_tokens/1"
TOP = 50  # words of a label that are kept
LARGEST = 16 * MEGABYTE
WORD = {"word": str, "early": (None, float), "late": (None, float), "seen": int}
WORDS = {"by_label": {str: [WORD]}, "energy": str, "batches": {"early": int, "late": int}, "special": [str]}  # as JSON


@dataclass(frozen=True)
class WordEnergy:
    """A word, and its part of the energy of its label's active tokens.

    Attributes:
        early, late: in the first and in the last epoch; None where that was not watched.
        seen: how often it stood in the texts that were watched.
    """

    word: str
    early: float | None
    late: float | None
    seen: int

    @property
    def share(self) -> float:
        """Late, or early where there is no late."""
        return (self.early if self.late is None else self.late) or 0.0


@dataclass(frozen=True)
class ActiveWords:
    """The words of every label, those first that hold most of the gradient in the end.

    Attributes:
        by_label: label -> words; at most 50. In token classification a label is a tag without ``B-`` and ``I-``.
        energy: of the active tokens, as the run had it.
        batches: how many were watched, ``early`` and ``late``.
        special: names of special tokens among the words.
    """

    by_label: dict[str, list[WordEnergy]]
    energy: str
    batches: dict[str, int]
    special: list[str]

    @classmethod
    def of(cls, early: Tally | None, late: Tally | None, energy: str, special: Iterable[str] = ()) -> ActiveWords:
        """From what was watched; None, or a tally without batches, for what was not."""
        tallies = [tally if tally is not None and tally.batches else None for tally in (early, late)]
        shares = [tally.shares() if tally else None for tally in tallies]
        by_label = {}
        for label in sorted({label for own in shares if own for label in own}):
            parts = [None if own is None else own.get(label, {}) for own in shares]
            words = [
                WordEnergy(word, *(None if own is None else own.get(word, 0.0) for own in parts), _seen(tallies, label, word))
                for word in {word for own in parts if own for word in own}
            ]
            by_label[label] = sorted(words, key=lambda found: (-found.share, -(found.early or 0.0), found.word))[:TOP]
        seen = {word.word for words in by_label.values() for word in words}
        batches = {"early": early.batches if early else 0, "late": late.batches if late else 0}
        return cls(by_label, energy, batches, sorted(seen & set(special)))

    def words(self, label: str, count: int) -> list[WordEnergy]:
        """Those of a label that hold most in the end, without special tokens."""
        return [word for word in self.by_label[label] if word.word not in self.special][:count]

    def best(self, count: int = 3) -> dict[str, list[str]]:
        """Label -> the words that hold most in the end."""
        return {label: [word.word for word in self.words(label, count)] for label in self.by_label}

    def rest(self, label: str) -> WordEnergy | None:
        """The special tokens of a label together; None where it has none."""
        own = [word for word in self.by_label[label] if word.word in self.special]
        parts = [[getattr(word, name) for word in own] for name in ("early", "late")]
        sums = [None if None in part else sum(part) for part in parts]
        return WordEnergy("special tokens", *sums, sum(word.seen for word in own)) if own else None

    def save(self, path: str | Path) -> None:
        """Writes them as JSON."""
        content = {"format": FORMAT, **asdict(self)}
        write_atomically(path, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> ActiveWords:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file holds something else.
        """
        what = "words as `save` writes them"
        content = read_json(path, "ActiveWords.load", what, most=LARGEST)
        known = content.pop("format", None) == FORMAT
        require(known, "ActiveWords.load", repr(str(path)), what, "another format")
        require(fits(content, WORDS), "ActiveWords.load", repr(str(path)), what, "fields of other names or types")
        content["by_label"] = {label: [WordEnergy(**word) for word in words] for label, words in content["by_label"].items()}
        return cls(**content)


def _seen(tallies: list[Tally | None], label: str, word: str) -> int:
    return sum(int(tally.words.get(label, {}).get(word, (0, 0))[1]) for tally in tallies if tally)
