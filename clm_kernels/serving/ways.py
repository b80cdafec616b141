"""How texts run through a trunk: each task by itself, with what lies below it run once for all; or all in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from typing import Any

import torch

from ..models.structure import base_model
from .mixing import Mix, Unmixable, mixing
from .reading import Reading, padded
from .relay import State, handing

AT_A_TIME = 16  # batches whose states are kept for other tasks
FEW = 3  # texts of a task: with 3.2 a mix took 1.04 of the time of each by itself, with 1 in upper layers 0.54 (docs/serving.md)


def mixes(readings: Sequence[Reading]) -> bool:
    """Whether ``mix="auto"`` mixes: several tasks, with fewer than `FEW` texts each in the mean."""
    return len(readings) > 1 and sum(len(reading.rows) for reading in readings) < FEW * len(readings)


def run(readings: Sequence[Reading], batch_size: int, mix: bool | str) -> None:
    """All texts of all tasks; those that cannot be mixed with others run apart, and that is said once."""
    groups: dict[Any, list[Reading]] = {}
    for reading in readings if mix is True or (mix and mixes(readings)) else ():
        if not reading.member.alone:
            groups.setdefault(_alike(reading), []).append(reading)
        else:
            reading.member.say_alone(reading.member.alone)
    done = {id(reading) for some in groups.values() for reading in _mixed_where_it_can(some, batch_size)}
    apart([reading for reading in readings if id(reading) not in done], batch_size)


def _alike(reading: Reading) -> Any:
    """What texts of one batch must have in common."""
    tokenizer = reading.member.classifier.tokenizer
    return tokenizer.pad_token_id, tokenizer.padding_side, *sorted(reading.row(int(reading.rows[0]))), reading.member.sides


def _mixed_where_it_can(readings: list[Reading], batch_size: int) -> list[Reading]:
    """Those that were mixed: without the tasks that changed what a layer does not take text by text, which shows in the forward."""
    while len(readings) > 1:
        try:
            mixed(readings, batch_size)
            return readings
        except Unmixable as where:
            for reading in readings:
                if where.path in reading.member.changed:
                    reading.member.alone = f"{where.path!r}, which it changes, is not given token by token"
                    reading.member.say_alone(reading.member.alone)
            readings = [reading for reading in readings if not reading.member.alone]
    return []


@torch.no_grad()
def apart(readings: Iterable[Reading], batch_size: int) -> None:
    """Each task by itself, bit for bit as its own classifier; tasks that read the same texts share the layers below all of both."""
    together: dict[Any, list[Reading]] = {}
    for reading in readings:
        member = reading.member
        shares = member.begins > 0
        together.setdefault((reading.texts, member.sides) if shares else id(reading), []).append(reading)
    for some in together.values():
        _share(sorted(some, key=lambda reading: -reading.member.begins), batch_size)


def _share(readings: list[Reading], batch_size: int) -> None:
    """The one that begins highest runs first, through all layers, and leaves to the others what the layers below them give."""
    begins = {reading.member.begins for reading in readings[1:]} - {0}
    batches = readings[0].batches(batch_size)
    while some := list(islice(batches, AT_A_TIME)):
        states: list[dict[int, State]] = [{} for _ in some]
        for number, reading in enumerate(readings):
            member = reading.member
            begin, keep = (0, begins) if number == 0 else (member.begins, set())
            with member.applied():
                for (rows, batch), held in zip(some, states, strict=True):
                    with handing(member.layers, held, begin, keep):
                        reading.take(rows, member.classifier.model(**batch).logits)


@torch.no_grad()
def mixed(readings: Sequence[Reading], batch_size: int) -> None:
    """Texts of several tasks in one batch, to rounding as each task by itself; what they read alike runs once below all of them."""
    order = {id(reading.encoded): place for place, reading in enumerate(readings)}
    rows = [
        (-length, order[id(reading.encoded)], i, number)
        for number, reading in enumerate(readings)
        for i, length in zip(reading.rows.tolist(), reading.lengths, strict=True)
    ]
    rows.sort()
    for begin in range(0, len(rows), batch_size):
        chunk = sorted((number, i) for _, _, i, number in rows[begin : begin + batch_size])
        _one_batch([(readings[number], [i for _, i in some]) for number, some in groupby(chunk, key=lambda row: row[0])])


def _one_batch(parts: list[tuple[Reading, list[int]]]) -> None:
    """One batch of these rows of these texts."""
    places: dict[tuple[int, int], int] = {}
    read = [places.setdefault((id(reading.encoded), i), len(places)) for reading, some in parts for i in some]
    source = {(id(reading.encoded), i): (reading, i) for reading, some in parts for i in some}
    once = padded(parts[0][0].member, [reading.row(i) for reading, i in (source[place] for place in places)])
    which = torch.tensor(read, device=once["input_ids"].device)
    batch = {name: tensor[which] for name, tensor in once.items()}
    members = [reading.member for reading, _ in parts]
    begin, states = min(member.begins for member in members), dict[int, State]()
    carrier, last = members[0], len(members[0].layers)
    if 0 < begin and len(places) < len(which):
        with handing(carrier.layers, states, keep={begin}, end=begin):
            base_model(carrier.classifier.model)(**once)
        states[begin] = states[begin]._replace(hidden=states[begin].hidden[which])
    else:
        begin = 0
    mix = Mix(members, [len(some) for _, some in parts], batch["input_ids"].shape[1])
    if begin < last:
        with handing(carrier.layers, states, begin, keep={last}), mixing(mix) as model:
            base_model(model)(**batch)
    for (reading, some), bounds in zip(parts, mix.bounds, strict=True):
        held = {last: states[last]._replace(hidden=states[last].hidden[bounds])}
        with handing(reading.member.layers, held, last):
            logits = reading.member.classifier.model(**{name: tensor[bounds] for name, tensor in batch.items()}).logits
        reading.take(some, logits)
