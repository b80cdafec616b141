"""A file that keeps what `replay`'s layers gave: read back bit for bit, for the same model alone, and never when damaged."""

import models
import pytest
import torch
from replays import outcome, part, upper
from tiny_runs import assert_same

import clm_kernels as clm
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
