"""One reader and one writer of safetensors files with a checksum."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from clm_kernels.fingerprint import checksum
from clm_kernels.tensors import read_tensors, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor([1, -2], dtype=torch.int32), "c": torch.zeros(0)}
METADATA = {"format": "ours/1", "note": "é"}


@pytest.fixture
def path(tmp_path):
    write_tensors(tmp_path / "file", TENSORS, METADATA)
    return tmp_path / "file"


def test_there_and_back(path):
    tensors, metadata = read_tensors(path, "read", "other/1", "ours/1")
    assert metadata == METADATA and tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype
        assert torch.equal(load_file(path)[name], tensor)
    assert read_tensors(path, "read")[1] == METADATA
    assert os.listdir(path.parent) == ["file"]


def test_a_parameter_is_written_as_a_tensor(tmp_path):
    write_tensors(tmp_path / "file", {"a": torch.nn.Parameter(torch.ones(2))}, {})
    assert torch.equal(read_tensors(tmp_path / "file", "read")[0]["a"], torch.ones(2))


def test_any_changed_bit_is_refused_in_the_name_of_function_and_file(path):
    content = path.read_bytes()
    for at in range(len(content)):
        if content[at] == ord(" "):
            continue  # padding of the header
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(ValueError, match=r"^read: '.*file' (has been altered|is truncated|must )"):
            read_tensors(path, "read", "ours/1")


@pytest.mark.parametrize("keep", [0, 7, 8, 60, -1])
def test_truncated(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"^read: '.*file' is truncated or no safetensors file: "):
        read_tensors(path, "read")


def test_something_else(path):
    with pytest.raises(FileNotFoundError):
        read_tensors(path.with_name("nothing"), "read")
    with pytest.raises(ValueError, match=r"^read: '.*file' must have format other/1 or other/2, got ours/1$"):
        read_tensors(path, "read", "other/1", "other/2")
    save_file({"a": torch.zeros(1)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"^read: '.*file' must be one that clm_kernels wrote, got one without a checksum$"):
        read_tensors(path, "read")
    metadata = {"note": "changed"}
    save_file({"a": torch.zeros(1)}, path, metadata | {"checksum": checksum({"a": torch.ones(1)}, metadata)})
    with pytest.raises(ValueError, match=r"^read: '.*file' has been altered since it was saved: its checksum does not match$"):
        read_tensors(path, "read")
