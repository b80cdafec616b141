"""Files from strangers: only the package's own errors, at once and in little memory; long: ``fuzz.py``."""

import json
import struct

import pytest
import torch
from fuzz import MEMORY, SECONDS, attempt, run
from safetensors.torch import save

import clm_kernels as clm
from clm_kernels.fingerprint import checksum
from clm_kernels.strangers import CONTAINERS, DEPTH, fits, parse_json, read_json
from clm_kernels.tensors import HEADER, TENSORS, read_tensors, write_tensors
from clm_kernels.token_groups.groups import TokenGroups

FILES = 10_000
MANY = 1_600_000_000
DEEP = "[" * 100_000


def test_ten_thousand_damaged_files():
    counts, failures = run(seed=19, files=FILES)
    assert not failures, f"{len(failures)} of {FILES}, the first:\n{failures[0]}"
    for name in {name for name, _ in counts}:
        assert counts[name, "read"] and counts[name, "refused"], f"{name}: {counts}"  # else nothing has been tried


def raw(path, header: bytes, data: bytes = b""):
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def signed(path, tensors, **changes):
    """A file that only its checksum, which holds, has in common with what `Delta.save` writes."""
    plain = {"originals": "{}", "labels": "[]", "entries": "{}", "recipe": clm.Recipe().to_json(), "extension": "null"}
    metadata = {name: value for name, value in ({"format": "clm_kernels.delta/2"} | plain | changes).items() if value is not None}
    path.write_bytes(save(tensors, metadata | {"checksum": checksum(tensors, metadata)}))
    return path


def entries(kind, *shape):
    return json.dumps({"w": {"kind": kind, "shape": shape, "block": None}})


def grown(rows, columns, ids):
    tokens = [{"text": "a", "id": i, "pieces": [0], "lstrip": False} for i in ids]
    return json.dumps({"name": "w", "rows": rows, "columns": columns, "original": "0", "tokens": tokens})


def index(count=0, dtype=torch.int32):
    return {"index.w": torch.zeros(count, dtype=dtype)}


def a_million_tensors(path):
    names = (f'"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(1_500_000))
    return raw(path, b"{" + ",".join(names).encode() + b"}")


def most_tensors(path):
    return signed(path, {f"whole.{i}": torch.zeros(0) for i in range(TENSORS + 1)})


def asks_for_much(path):
    """728 bytes, for which 12.8 GB were asked for: columns of 0 numbers, of a weight with 1.6 billion rows."""
    made = index() | {"values.w": torch.zeros(MANY, 0)}
    return signed(path, made, entries=entries("columns", MANY, 1), originals='{"w": "0"}', extension=grown(MANY, 1, [0]))


def asks_for_rows(path):
    """One new token far above the base's rows."""
    made = {"index.w": torch.tensor([MANY], dtype=torch.int32), "values.w": torch.zeros(1, 8)}
    return signed(path, made, entries=entries("rows", MANY + 1, 8), originals='{"w": "0"}', extension=grown(16, 8, [MANY]))


BOMBS = {
    "a million and a half empty tensors": (a_million_tensors, r"the header of '.*' must be at most 1,048,576 bytes"),
    "more tensors than there may be": (most_tensors, r"must be a file of at most 10,000 tensors"),
    "12.8 GB of no numbers": (asks_for_much, "selection must hold the rows of all 1 new tokens"),
    "a row far above": (asks_for_rows, "the new tokens must be at most as many as the 16 of the base, with rising ids up to 16"),
    "shapes of 2^63": (
        lambda path: signed(path, index(1, torch.int64), entries=entries("elements", 2**63, 2**63)),
        "entries must be a kind, a shape and a block by name",
    ),
    "shapes of 2^62": (
        lambda path: signed(path, index(1, torch.int64), entries=entries("elements", 2**31, 2**31)),
        r"shape must be of fewer than 2\*\*62 entries",
    ),
    "a header of 2^64 - 1 bytes": (lambda path: path.write_bytes(b"\xff" * 64) and path, "a header of 18,446,744,073,709,551,615 bytes"),
    "a deep header": (lambda path: raw(path, DEEP.encode()), "JSON of at most 32 levels, got 100,000"),
    "a wide header": (lambda path: raw(path, b"[" + b"[]," * 200_000 + b"[]]"), "JSON of at most 100,000 arrays and objects"),
    "a header with a name twice": (lambda path: raw(path, b'{"a": 1, "a": 2}'), "JSON with names once"),
    "a header of quotes": (lambda path: raw(path, b'"\\"' * 300_000), "must be JSON in UTF-8"),
    "a hole between tensors": (
        lambda path: raw(path, b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}', b"ab"),
        "one after the other",
    ),
    "a tensor beyond the file": (
        lambda path: raw(path, b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}', b"ab"),
        "take 4 bytes of 2",
    ),
    "offsets that are no numbers": (
        lambda path: raw(path, b'{"a": {"dtype": "U8", "shape": [1.5], "data_offsets": [0, null]}}', b"ab"),
        "a tensor must have a shape",
    ),
    "a deep recipe": (lambda path: signed(path, {}, recipe=DEEP), "JSON of at most 32 levels"),
    "deep labels": (lambda path: signed(path, {}, labels=DEEP), "JSON of at most 32 levels"),
    "digits without end": (lambda path: signed(path, {}, labels="9" * 100_000), "numbers of at most 4,300 digits"),
    "made of another type": (lambda path: signed(path, {}, format="clm_kernels.delta/1", recipe=None, made="[]"), "must be an object, got list"),
    "labels of another type": (lambda path: signed(path, {}, labels="5"), "labels must be a list, got 5"),
    "labels that are no texts": (lambda path: signed(path, {}, labels='[5, {}]'), "labels must be texts"),
    "originals of another type": (lambda path: signed(path, {}, originals="[1]"), "originals must be a fingerprint by name"),
    "no new tokens": (lambda path: signed(path, {}, extension=grown(3, 1, [])), "the new tokens must be"),
    "a recipe with no place for the text": (
        lambda path: signed(path, {}, recipe=json.dumps({"version": 1, "template": "x"})),
        r"template must be a text that holds \{text\} once",
    ),
    "a recipe whose dtype is a function": (
        lambda path: signed(path, {}, recipe=json.dumps({"version": 1, "dtype": "load"})),
        "dtype must be a floating dtype",
    ),
    "a recipe of version true": (lambda path: signed(path, {}, recipe='{"version": true}'), "version must be 1"),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory):
    """What torch and safetensors load with their first file is not the file's."""
    path = signed(tmp_path_factory.mktemp("warm") / "file", {"whole.a": torch.zeros(3)})
    clm.Delta.load(path)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once_and_in_little_memory(name, tmp_path):
    make, message = BOMBS[name]
    path = make(tmp_path / "bomb.safetensors")
    what, told = attempt(clm.Delta.load, path)
    assert what == "refused", f"{what}: {told}"
    with pytest.raises(ValueError, match=message) as caught:
        clm.Delta.load(path)
    told = str(caught.value)
    assert told.startswith("Delta.load: ") and "bomb.safetensors" in told and "\n" not in told and len(told) < 1000


def test_the_watch_sees_time_and_memory():
    """Else the tests above would pass on anything."""

    def large(path):
        return bytearray(2 * MEMORY)

    def slow(path):
        return sum(range(int(3e8 * SECONDS)))

    def other(path):
        raise KeyError(path)

    def no_line(path):
        raise ValueError("two\nlines")

    outcomes = [attempt(read, None)[0] for read in (large, slow, other, no_line, lambda path: clm.Recipe(version=2), print)]
    assert outcomes == ["too large", "too slow", "another error", "another message", "refused", "read"]


def test_a_refusal_says_what_to_do(tmp_path):
    with pytest.raises(
        ValueError, match=r"^Selection.load: '.*file' is incomplete or altered, Selection: .*; fetch or make it again$"
    ):
        clm.Selection.load(signed(tmp_path / "file", {}, format="clm_kernels.selection/1", entries="3"))


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_read(kind, tmp_path):
    import os

    path = tmp_path / "file"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    for read in (lambda: read_tensors(path, "read"), lambda: read_json(path, "read", "a config"), lambda: TokenGroups.load(path)):
        with pytest.raises(ValueError, match=r"^[\w.]+: '.*file' must be a file, got a folder, a pipe or a device$"):
            read()


def test_nothing_is_written_that_would_not_be_read(tmp_path):
    path = tmp_path / "file"
    most = {f"{i}": torch.zeros(0) for i in range(TENSORS)}
    write_tensors(path, most, {})
    assert read_tensors(path, "read")[0].keys() == most.keys()
    with pytest.raises(ValueError, match=r"^write_tensors: tensors must be at most 10,000, got 10,001$"):
        write_tensors(path, most | {"one more": torch.zeros(0)}, {})
    with pytest.raises(
        ValueError, match=r"^write_tensors: the file's header must be at most 1,048,576 bytes \(fewer new tokens, "
    ):
        write_tensors(path, {}, {"a": "x" * HEADER})
    assert read_tensors(path, "read")[0].keys() == most.keys()


def test_json_up_to_its_bounds():
    assert parse_json("[" * DEPTH + "]" * DEPTH, "f", "it") is not None
    assert len(parse_json("[" + "{}," * (CONTAINERS - 2) + "{}]", "f", "it")) == CONTAINERS - 1
    assert (
        parse_json('{"a": "[[[[\\"{", "b": ' + json.dumps("{" * 50) + "}", "f", "it")["b"] == "{" * 50
    )  # brackets in a text are none
    for text in (
        "[" * (DEPTH + 1) + "]" * (DEPTH + 1),
        "[" + "{}," * (CONTAINERS - 1) + "{}]",
        '"' + "x" * HEADER + '"',
        "\ud800",
    ):
        with pytest.raises(ValueError, match=r"^f: it must be JSON "):
            parse_json(text, "f", "it")
    assert parse_json('{"a": 1, "a": 2}', "f", "it") == {"a": 2}


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [
        (1, int, True), (True, int, False), (1.5, int, False), (2**63, int, False), (1, float, True), (True, float, False),
        (float("nan"), float, True), (float("inf"), float, False), ("x" * 1000, str, True), ("x" * 1001, str, False), (True, bool, True),
        (None, (None, int), True), ("", (None, int), False), ([1, 2], [int], True), ([1, ""], [int], False), ({}, [int], False),
        ({"a": 1}, {str: int}, True), ({"a": ""}, {str: int}, False), ({"a": 1}, {"a": int, "b?": int}, True), ({"b": 1}, {"a": int, "b?": int}, False),
        ({"a": 1, "b": ""}, {"a": int, "b?": int}, False), ({"a": 1, "c": 1}, {"a": int, "b?": int}, False), ([], {str: int}, False),
    ],
)  # fmt: skip
def test_forms(value, form, expected):
    assert fits(value, form) is expected
