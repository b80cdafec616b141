"""How many texts the limit cuts off, and how many tokens the tokenizer does not know."""

from __future__ import annotations

import random
from array import array
from typing import TYPE_CHECKING, Any

from ..split import Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..config import Data
    from ..tasks import Task

SAMPLE = 20_000  # texts of a part that are tokenised; of more, as many are drawn
BATCH = 1_000
WHOLE = 10**9  # tokens: a template shortens nothing


class Limit:
    """A tokenizer, and how many tokens a text may have.

    Args:
        data: names the model, of which tokenizer and config are read and no weights.

    Raises:
        ValueError: if there is no model for this task.
    """

    def __init__(self, data: Data, task: Task):
        import torch

        from ...models.folders import build_model, read_config
        from ..models import Loaded, check_directory, limited_by, load_tokenizer, longest

        check_directory("check", data.model)
        try:
            config = read_config(data.model)
            with torch.device("meta"):
                model = build_model(task.auto_class, config, torch.float32)
            tokenizer = load_tokenizer(data.model, task, config)
        except (OSError, ValueError) as error:
            message = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"check: model must be one with a tokenizer, {data.model!r} gave: {message}") from error
        self.task, self.template, self.tokenizer, self.windows = task, data.template, tokenizer, data.long == "window"
        loaded = Loaded(model, tokenizer, [], [])
        self.tokens, self.by = longest(loaded, data.max_length), limited_by(loaded, data.max_length)


class Lengths:
    """Texts of one part, a sample drawn by chance where there are many, and what their tokens say.

    Attributes:
        rows: the texts that were tokenised, by row.
        cut: rows among them that are longer than the limit.
        windows: in how many these are read, where texts are read in windows.
        unknown: rows among them that hold unknown tokens.
        tokens, unknown_tokens: counts over all of them; what the tokenizer puts around a text is not counted.
    """

    def __init__(self, limit: Limit):
        self.limit = limit
        self.cut, self.unknown = array("q"), array("q")
        self.tokens = self.unknown_tokens = self.windows = 0
        self.rows: list[tuple[int, Any]] = []
        self._seen, self._draw = 0, random.Random(0)

    def take(self, row: int, text: Any) -> None:
        """Offers a text to the sample."""
        self._seen += 1
        if len(self.rows) < SAMPLE:
            self.rows.append((row, text))
        elif (place := int(self._draw.random() * self._seen)) < SAMPLE:
            self.rows[place] = (row, text)

    def measure(self) -> None:
        """Tokenises the sample."""
        self.rows.sort(key=lambda pair: pair[0])
        for start in range(0, len(self.rows), BATCH):
            self._measure(self.rows[start : start + BATCH])

    def _measure(self, rows: list[tuple[int, Any]]) -> None:
        limit, tokenizer = self.limit, self.limit.tokenizer
        around, unknown = tokenizer.num_special_tokens_to_add(), _unknown(tokenizer)
        texts, _ = limit.task.written([text for _, text in rows], tokenizer, WHOLE, limit.template)
        words = not isinstance(texts[0], str)
        read = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, is_split_into_words=words)
        for (row, text), ids in zip(rows, read["input_ids"], strict=True):
            self.tokens += len(ids)
            if len(ids) + around > limit.tokens:
                self.cut.append(row)
                if limit.windows:
                    alone = Split("", [text], [None], [row])
                    self.windows += limit.task.windows(alone, tokenizer, limit.tokens, limit.template).of_long
            if unknown is not None and (count := ids.count(unknown)):
                self.unknown.append(row)
                self.unknown_tokens += count


def _unknown(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of what is not known; None where that is a token with another meaning, as of byte-level tokenizers."""
    others = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
    return None if tokenizer.unk_token_id in others else tokenizer.unk_token_id
