"""transformers' report of a checkpoint's loading, which advises to train a head that is filled or trained next."""

from __future__ import annotations

import logging
import threading
from typing import Any

SOURCE = "transformers.modeling_utils"
OF_HEADS = ("MISSING", "MISMATCH")  # as the report's table and its notes mark what the checkpoint does not hold


class HeldReport(logging.Filter):
    """A context that holds the report back until its end, and then says it; without the lines on heads if `only_heads` was set.

    Attributes:
        only_heads: whether all that the checkpoint does not hold is a head's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.only_heads, self._held = False, list[logging.LogRecord]()
        self._thread, self._logger = threading.get_ident(), logging.getLogger(SOURCE)

    def filter(self, record: logging.LogRecord) -> bool:
        ours = record.thread == self._thread and "LOAD REPORT" in record.getMessage()
        if ours:
            self._held.append(record)
        return not ours

    def __enter__(self) -> HeldReport:
        self._logger.addFilter(self)
        return self

    def __exit__(self, *raised: Any) -> None:
        self._logger.removeFilter(self)
        for record in self._held:
            lines = record.getMessage().split("\n")
            left = [line for line in lines if not (self.only_heads and any(mark in line for mark in OF_HEADS))]
            if left == lines or any(mark in "\n".join(left) for mark in ("UNEXPECTED", "CONVERSION")):
                record.msg, record.args = "\n".join(left), ()
                self._logger.handle(record)
