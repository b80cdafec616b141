"""Seeded damage to JSON, bytes and tensors, as a stranger who knows the formats would do it."""

import json

import torch

DEEP = "[" * 100_000
HOSTILE = [
    None, True, False, -1, 0, 1, 3, 2**31, 2**32, 2**63, 2**64, 10**30, -(2**63), 0.5, 1e308, -0.0, float("nan"), float("inf"),
    "", "x", "x" * 2000, "\x00\x1b[31m\u202e", "../../etc/passwd", "{text}{text}", "[", "9" * 5000, [], {}, [[]], {"": 0}, [0] * 3,
]  # fmt: skip


def paths(value, at=()):
    """Where everything stands in a JSON value."""
    yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths(child, (*at, key))


def altered(draw, value):
    """A JSON value with one part exchanged, doubled, renamed or taken out; texts that are JSON are looked into."""
    value = json.loads(json.dumps(value))
    at = draw.choice(list(paths(value)))
    if not at:
        return draw.choice(HOSTILE) if draw.random() < 0.3 else value
    parent = value
    for key in at[:-1]:
        parent = parent[key]
    key, way = at[-1], draw.random()
    inner = inside(parent[key])
    if inner is not None and way < 0.8:
        parent[key] = text_of(draw, altered(draw, inner))
    elif way < 0.15:
        del parent[key]
    elif way < 0.25 and isinstance(parent, dict):
        parent[draw.choice(["", "x" * 1500, "__class__", key + "_"])] = parent.pop(key)
    elif way < 0.35 and isinstance(parent, list):
        parent.extend([parent[key]] * draw.choice([1, 30, 3000]))
    elif way < 0.45 and type(parent[key]) in (int, float):
        parent[key] += draw.choice([-1, 1, 2**31, 2**62])
    else:
        parent[key] = draw.choice(HOSTILE)
    return value


def inside(value):
    """What a text that is JSON holds."""
    try:
        return json.loads(value) if isinstance(value, str) and value[:1] in "[{" and value else None
    except ValueError:
        return None


def text_of(draw, value) -> str:
    """JSON, sometimes with a name twice, too deep, or cut off."""
    text, way = json.dumps(value), draw.random()
    if way < 0.05:
        return text.replace("{", '{"format": 1, "format": 2, ', 1)
    if way < 0.08:
        return DEEP + "]" * draw.choice([0, 100_000])
    if way < 0.11:
        return text.replace(":", ": " + "[" * 40 + "]" * 40 + ', "more":', 1)
    if way < 0.14:
        return text[: draw.randrange(len(text) + 1)]
    return text


def damaged(draw, data: bytes) -> bytes:
    """Bytes with some bits flipped, taken out, put in or cut off."""
    data, way = bytearray(data), draw.random()
    if not data or way < 0.2:
        return bytes(data[: draw.randrange(len(data) + 1)])
    at = draw.randrange(min(len(data), draw.choice([9, 400, len(data)])))
    if way < 0.7:
        for _ in range(draw.choice([1, 1, 8])):
            data[draw.randrange(at + 1)] ^= 1 << draw.randrange(8)
    elif way < 0.8:
        del data[at : at + draw.choice([1, 8, 64])]
    elif way < 0.9:
        data[at:at] = draw.randbytes(draw.choice([1, 8, 64]))
    else:
        data[:8] = draw.choice([0, 1, 2**20, 2**20 + 1, 2**32, 2**63, 2**64 - 1, len(data)]).to_bytes(8, "little")
    return bytes(data)


def retensored(draw, tensors):
    """Tensors of which one has another value, dtype, shape or name, or is gone."""
    tensors = dict(tensors)
    if not tensors:
        return tensors
    name = draw.choice(sorted(tensors))
    tensor, way = tensors[name], draw.random()
    if way < 0.15:
        del tensors[name]
    elif way < 0.3:
        tensors[draw.choice([name + "x", "values.x", "whole.x", "index.x", "x" * 1200])] = tensors.pop(name)
    elif way < 0.5:
        tensors[name] = tensor.to(draw.choice([torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]))
    elif way < 0.7:
        shapes = [(0,), (2**31, 0), (0, 2**40), (1,) * 9, (*tensor.shape, 1), (-1,)]
        shape = draw.choice(shapes)
        tensors[name] = (
            torch.zeros(shape, dtype=tensor.dtype) if 0 in shape else tensor.reshape(1, -1)[0][:1].reshape((1,) * len(shape))
        )
    else:
        flat = tensor.clone().flatten()
        if len(flat):
            flat[draw.randrange(len(flat))] = draw.choice([-1, 0, 1, 2**30]) if tensor.dtype != torch.bool else True
        tensors[name] = flat.view(tensor.shape).contiguous()
    return tensors
