"""Energies by number, by role, or as text; and what is refused."""

import re

import numpy as np
import pytest

from clm_kernels.energy import ATTENTION, FEED_FORWARD, ROLES, energies

ONE = dict.fromkeys(ROLES, 1.0)
KNOWN = "'attention', 'feed_forward', 'query', 'key', 'value', 'output', 'feed_in' or 'feed_out'"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (1, ONE),
        (0.99, dict.fromkeys(ROLES, 0.99)),
        (np.float64(0.5), dict.fromkeys(ROLES, 0.5)),
        ("0.99", dict.fromkeys(ROLES, 0.99)),
        ({}, ONE),
        ({"attention": 0.9}, ONE | dict.fromkeys(ATTENTION, 0.9)),
        ({"feed_forward": 0.9}, ONE | dict.fromkeys(FEED_FORWARD, 0.9)),
        ({"value": 0.5, "attention": 0.9}, ONE | dict.fromkeys(ATTENTION, 0.9) | {"value": 0.5}),
        ("value=1,attention=0.9", ONE | dict.fromkeys(ATTENTION, 0.9) | {"value": 1.0}),
        (" feed_in = 0.5 , feed_out=1e-3", ONE | {"feed_in": 0.5, "feed_out": 1e-3}),
    ],
    ids=str,
)
def test_a_number_for_each_role(given, expected):
    found = energies(given)
    assert found == expected and [*found] == [*ROLES] and all(type(value) is float for value in found.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "in (0, 1], got 0"),
        (-0.5, "in (0, 1], got -0.5"),
        (1.0001, "in (0, 1], got 1.0001"),
        (float("nan"), "in (0, 1], got nan"),
        (True, "in (0, 1], got True"),
        (None, "in (0, 1], got None"),
        ("2", "in (0, 1], got 2.0"),
        ({"value": 0.0}, "in (0, 1], got 0.0"),
        ({"value": "0.5"}, "in (0, 1], got '0.5'"),
        ({"values": 0.5}, f"one number, or one for any of {KNOWN}, got 'values'"),
        ("attention=0.9,head=0.5", f"one number, or one for any of {KNOWN}, got 'head'"),
        ("", "a number, or numbers by role as in attention=0.999,feed_forward=0.95, got ''"),
        ("most", "a number, or numbers by role as in attention=0.999,feed_forward=0.95, got 'most'"),
        ("value=most", "a number, or numbers by role as in attention=0.999,feed_forward=0.95, got 'most'"),
        ("0.9,value=1", "a number, or numbers by role as in attention=0.999,feed_forward=0.95, got '0.9,value=1'"),
    ],
    ids=str,
)
def test_what_is_refused(given, message):
    with pytest.raises(ValueError, match=f"^patch: energy must be {re.escape(message)}$"):
        energies(given)
    with pytest.raises(ValueError, match=r"^train: energy must be "):
        energies(given, "train")
