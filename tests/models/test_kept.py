"""A file that keeps what `replay`'s layers gave: read back bit for bit, for the same model alone, and never when damaged."""

import errno
import hashlib
import json
import os

import models
import pytest
import torch
from replays import outcome, part, upper
from tiny_runs import assert_same

import clm_kernels as clm
from clm_kernels.models import kept
from clm_kernels.models.structure import layers_of


@pytest.fixture
def batches():
    model = upper()
    whole = models.batch(model)
    return [part(whole, [0, 1], 9), part(whole, [2], 9)]


def fill(path, batches, model=None, **limits):
    """What a model gives with a file, how many texts ran through its layers, and its `Replay`."""
    model, ran = model or upper(), []
    layers_of(model)[0].attention.register_forward_hook(lambda module, args, output: ran.append(len(args[0])))
    with clm.replay(model, **limits) as kept:
        kept.fill(batches, path)
        done, read = kept.file, (kept.texts, kept.nbytes)
        found = [outcome(model, batch) for batch in batches]
    return found, sum(ran), done, read


def test_a_second_call_reads_what_the_first_has_written(tmp_path, batches):
    path = tmp_path / "kept"
    first, ran, done, size = fill(path, batches)
    assert (ran, done) == (3, "written")
    second, ran, done, again = fill(path, batches[::-1])
    assert (ran, done, again) == (0, "read", size)
    for (logits, gradients), (its_logits, its_gradients) in zip(first, second[::-1], strict=True):
        assert torch.equal(logits, its_logits)
        assert_same(gradients, its_gradients)
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_dtype_comes_back_as_it_was(tmp_path, batches, dtype):
    memory = outcome(upper(dtype=dtype), batches[0])[0]
    for _ in range(2):
        model = upper(dtype=dtype)
        (logits, _), *_ = fill(tmp_path / "kept", batches, model)[0]
        assert logits.dtype == dtype and torch.equal(logits, memory)


def test_texts_that_were_missing_are_added(tmp_path, batches):
    fill(tmp_path / "kept", batches[:1])
    _, ran, done, (texts, _) = fill(tmp_path / "kept", batches)
    assert (ran, done, texts) == (1, "written anew: texts were missing", 3)
    assert fill(tmp_path / "kept", batches)[1:3] == (0, "read")


def test_another_model_is_never_replayed(tmp_path, batches):
    fill(tmp_path / "kept", batches)
    other = upper()
    with torch.no_grad():
        next(layers_of(other)[1].parameters()).view(-1)[0] += 1e-9
    _, ran, done, _ = fill(tmp_path / "kept", batches, other)
    assert (ran, done) == (3, "written anew: it was made by another model or other versions")


def test_damage_anywhere_is_seen(tmp_path, batches):
    path = tmp_path / "kept"
    expected = fill(path, batches)[0]
    whole = path.read_bytes()
    damages = [whole[:-1], whole[: len(whole) // 2], b"", whole[8:], whole + b"x"]
    for at in (0, len(whole) // 2, len(whole) - 40, len(whole) - 20, len(whole) - 10, len(whole) - 1):
        damages.append(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    for damaged in damages:
        path.write_bytes(damaged)
        found, ran, done, _ = fill(path, batches)
        assert ran == 3 and done.startswith("written anew: it was not ")
        assert torch.equal(found[0][0], expected[0][0])
        assert path.read_bytes() == whole


INDEX = {"made_by": "m", "beside": 0, "places": {"00": [0, 8]}, "dtype": "float32", "width": 2}


def sealed(index, rows=bytes(8)):
    """A file with a right digest, whatever its index says."""
    told = index if isinstance(index, bytes) else json.dumps(index).encode()
    digest = hashlib.blake2b(rows + told, digest_size=kept.DIGEST).digest()
    return rows + told + digest + len(told).to_bytes(kept.LENGTH, "little") + kept.MARK


@pytest.mark.parametrize(
    "index",
    [
        {"places": {}}, [], 7, b"{", b"[" * 100_000, {**INDEX, "dtype": "load"}, {**INDEX, "width": 0}, {**INDEX, "width": 3},
        {**INDEX, "places": {"00": [0, 16]}}, {**INDEX, "places": {"00": [-8, 0]}}, {**INDEX, "places": {"00": [8, 0]}},
        {**INDEX, "places": {"00": [0]}}, {**INDEX, "places": {"no hex": [0, 8]}}, {**INDEX, "places": [0, 8]}, {**INDEX, "made_by": 7},
        {name: value for name, value in INDEX.items() if name != "dtype"},
    ],
    ids=lambda index: str(index)[:40],
)  # fmt: skip
def test_an_index_with_a_right_digest_is_not_believed(tmp_path, index):
    (tmp_path / "kept").write_bytes(sealed(index))
    with pytest.raises(kept.Damaged, match="without an index of rows"):
        kept.Mapped(tmp_path / "kept", "m")
    (tmp_path / "kept").write_bytes(sealed(INDEX))
    assert kept.Mapped(tmp_path / "kept", "m").get(b"\0").tolist() == [[0, 0]]


def test_one_that_is_not_believed_is_written_anew(tmp_path, batches):
    (tmp_path / "kept").write_bytes(sealed([]))
    assert fill(tmp_path / "kept", batches)[1:3] == (3, "written anew: it was without an index of rows")


def test_a_folder_or_a_pipe_in_its_place(tmp_path, batches):
    (tmp_path / "kept").mkdir()
    with pytest.raises(ValueError, match=r"^replay: file must be a file or a new name, got '.*/kept', which is a folder, a pipe"):
        fill(tmp_path / "kept", batches)
    assert not any((tmp_path / "kept").iterdir())


def test_its_size_is_bounded_and_the_rest_runs_each_time(tmp_path, batches):
    expected, _, _, (_, size) = fill(tmp_path / "whole", batches)
    found, _, done, (texts, nbytes) = fill(tmp_path / "kept", batches, max_bytes=0.7 * size)
    assert done == "written" and 0 < nbytes <= 0.7 * size and 0 < texts < 6
    for (logits, _), (its_logits, _) in zip(expected, found, strict=True):
        assert torch.equal(logits, its_logits)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, batches, monkeypatch):
    path = tmp_path / "kept"
    fill(path, batches[:1])
    whole = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fill(path, batches)
    assert path.read_bytes() == whole and [file.name for file in tmp_path.iterdir()] == ["kept"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_disk_that_is_full_when_the_file_is_closed(tmp_path):
    """What stands in Python's buffer is written then, and fails again."""
    row = torch.zeros(3, 2)
    with pytest.raises(OSError, match="No space left") as raised, kept.Writer(tmp_path / "kept", "m", 1e9) as writer:
        writer._file.close()
        writer._file = open("/dev/full", "wb")  # noqa: SIM115
        writer.keep(b"\0", row)
        writer.finish(0)
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(tmp_path / "kept")
    assert not any(tmp_path.iterdir())
