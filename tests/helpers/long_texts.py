"""Texts, some of which are too long for a tiny limit."""

import json
from dataclasses import replace

from tiny_task import FILLERS, sentences, several, texts, write_data

LIMIT = 10


def lengthened(rows):
    """Of two texts one is too long: its own words come last."""
    filled = " ".join(FILLERS * 3)
    return [{**row, "text": f"{filled[: 40 * (i % 4)]} {row['text']}"} if i % 2 else row for i, row in enumerate(rows)]


def long_texts(count, seed):
    return lengthened(texts(count, seed))


def long_several(count, seed):
    return lengthened(several(count, seed))


def long_sentences(count, seed):
    """One to four of them in a row."""
    rows, found = sentences(4 * count, seed), []
    for i in range(count):
        own = rows[4 * i : 4 * i + 1 + i % 4]
        found.append({name: [each for row in own for each in row[name]] for name in ("tokens", "tags")})
    return found


def rows_of(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def in_windows(base, folder):
    """A quick config whose texts are some of these."""
    return replace(base, **write_data(folder, long_texts), max_length=LIMIT, long="window", epochs=2)
