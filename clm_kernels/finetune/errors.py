"""Words for the messages that a user may see; the form is `ops.checks.require`'s."""

from __future__ import annotations

from collections.abc import Iterable

from ..ops.checks import require

__all__ = ["listed", "require"]


def listed(names: Iterable[object], limit: int = 8) -> str:
    """``'a', 'b' or 'c'``; cut short after `limit`."""
    shown = [repr(name) for name in names]
    if len(shown) > limit:
        return ", ".join(shown[:limit]) + f" … ({len(shown)} in all)"
    return " or ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))
