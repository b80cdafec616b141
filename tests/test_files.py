"""Files that are whole or not there, and fingerprints."""

import os
import stat
from pathlib import Path

import pytest
import torch

from clm_kernels.files import write_atomically
from clm_kernels.fingerprint import checksum, fingerprint


class TestWriteAtomically:
    def test_writes_and_replaces(self, tmp_path):
        path = tmp_path / "deep" / "er" / "file"
        for content in (b"first", b"", b"a longer one than before"):
            write_atomically(path, content)
            assert path.read_bytes() == content
            assert os.listdir(path.parent) == ["file"]

    @pytest.mark.parametrize("failing", ["replace", "fsync", "chmod"])
    def test_a_failure_leaves_the_old_file_alone(self, tmp_path, monkeypatch, failing):
        path = tmp_path / "file"
        write_atomically(path, b"old")

        def fail(*args):
            raise OSError("disk full")

        monkeypatch.setattr(os, failing, fail)
        with pytest.raises(OSError, match="disk full"):
            write_atomically(path, b"new")
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]

    def test_an_interruption_leaves_nothing_behind(self, tmp_path, monkeypatch):
        def interrupt(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(tmp_path / "file", b"new")
        assert os.listdir(tmp_path) == []

    def test_the_content_is_on_disk_before_the_name_is(self, tmp_path, monkeypatch):
        """Whoever reads at any moment sees the old content or the new."""
        seen, replace = [], os.replace

        def look(source, target):
            seen.append((Path(source).read_bytes(), os.path.dirname(source), os.path.exists(target)))
            replace(source, target)

        monkeypatch.setattr(os, "replace", look)
        write_atomically(tmp_path / "file", b"new")
        assert seen == [(b"new", str(tmp_path), False)]

    @pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
    @pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
    def test_permissions_follow_the_umask(self, tmp_path, mask):
        former = os.umask(mask)
        try:
            write_atomically(tmp_path / "file", b"")
            assert os.umask(mask) == mask  # left as it was
        finally:
            os.umask(former)
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask

    def test_the_longest_name_that_the_file_system_takes(self, tmp_path):
        write_atomically(tmp_path / ("n" * 255), b"x")
        assert os.listdir(tmp_path) == ["n" * 255]


class TestFingerprint:
    tensor = torch.tensor([[0.0, 1.0], [-2.5, float("nan")]])

    def test_is_the_same_for_the_same_bits(self):
        parameter = torch.nn.Parameter(self.tensor.clone())
        for same in (self.tensor.clone(), parameter, self.tensor.T.contiguous().T, torch.stack([self.tensor, self.tensor])[1]):
            assert fingerprint(same) == fingerprint(self.tensor)
        assert len(fingerprint(self.tensor)) == 32 and set(fingerprint(self.tensor)) <= set("0123456789abcdef")

    def test_stays_what_it_was(self):
        """Deltas on disk hold fingerprints: another hash would refuse every one of them."""
        assert fingerprint(torch.arange(6, dtype=torch.float32).view(2, 3)) == "cee866eec059e6c52c2b3713f2e83c31"

    def test_tells_everything_else_apart(self):
        a = self.tensor
        others = [
            a.view(4),
            a.view(1, 4),
            a.T,
            a.double(),
            a.view(torch.int32),
            -a,
            a[:1],
            a[:0],
            torch.where(a == 0, -0.0, a),
            a.bfloat16(),
        ]
        assert len({fingerprint(t) for t in [a, *others]}) == len(others) + 1

    @pytest.mark.parametrize(
        "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]
    )
    @pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (3, 5)])
    def test_takes_any_dtype_and_shape(self, dtype, shape):
        tensor = torch.zeros(shape, dtype=dtype)
        assert fingerprint(tensor) == fingerprint(tensor.clone())
        if tensor.numel():
            assert fingerprint(tensor) != fingerprint(torch.ones(shape, dtype=dtype))

    def test_a_checksum_covers_names_tensors_and_metadata(self):
        tensors, metadata = {"a": torch.zeros(2), "b": torch.ones(2)}, {"k": "v"}
        expected = checksum(tensors, metadata)
        assert checksum(dict(reversed(tensors.items())), dict(metadata)) == expected
        changed = [
            ({"a": tensors["b"], "b": tensors["a"]}, metadata),
            ({"a": tensors["a"]}, metadata),
            ({"a": tensors["a"], "c": tensors["b"]}, metadata),
            (tensors, {"k": "w"}),
            (tensors, {}),
            (tensors, metadata | {"l": ""}),
        ]
        assert expected not in {checksum(*parts) for parts in changed}
