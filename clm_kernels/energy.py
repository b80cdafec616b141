"""Energies of active tokens: how much of a gradient's squared norm a backward keeps, one number or one by role.

A role is what a linear layer does in its layer of the model: query, key, value and output of an attention, and what leads
into and out of a feed-forward part.
"""

from __future__ import annotations

from collections.abc import Mapping

from .errors import listed, require

ATTENTION = ("query", "key", "value", "output")
FEED_FORWARD = ("feed_in", "feed_out")
ROLES = (*ATTENTION, *FEED_FORWARD)
GROUPS = {"attention": ATTENTION, "feed_forward": FEED_FORWARD, **{role: (role,) for role in ROLES}}

Energy = float | str | Mapping[str, float]


def energies(energy: Energy, function: str = "patch") -> dict[str, float]:
    """Role -> energy in (0, 1]; 1 where nothing is said.

    Args:
        energy: a number for all roles; or numbers by role, or by ``attention`` and ``feed_forward``, of which a role's own
            number stands before its group's; or either as text: ``"0.99"``, ``"attention=0.999,feed_forward=0.95"``.
        function: whose argument it is, for errors.

    Raises:
        ValueError: for a number out of range, or a role that there is not.
    """
    given = _named(energy, function)
    for name, value in given.items():
        require(name in GROUPS, function, "energy", f"one number, or one for any of {listed(GROUPS)}", repr(name))
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(real and 0 < value <= 1, function, "energy", "in (0, 1]", repr(value))
    found = dict.fromkeys(ROLES, 1.0)
    for name in sorted(given, key=lambda name: -len(GROUPS[name])):
        found |= dict.fromkeys(GROUPS[name], float(given[name]))
    return found


def _named(energy: Energy, function: str) -> Mapping[str, float]:
    if isinstance(energy, str):
        parts = [part.partition("=") for part in energy.split(",")]
        if all(mark for _, mark, _ in parts):
            return {name.strip(): _number(value, function) for name, _, value in parts}
        energy = _number(energy, function)
    return energy if isinstance(energy, Mapping) else {"attention": energy, "feed_forward": energy}


def _number(text: str, function: str) -> float:
    try:
        return float(text)
    except ValueError:
        expected = "a number, or numbers by role as in attention=0.999,feed_forward=0.95"
        raise ValueError(f"{function}: energy must be {expected}, got {text!r}") from None
