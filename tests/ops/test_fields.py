"""What Python, C++, CUDA and Triton call by name is the same to all of them."""

import importlib
import importlib.util
from types import SimpleNamespace

import pytest
import torch
from places import ROOT

from clm_kernels import Entries
from clm_kernels.ops import addresses, fields
from clm_kernels.ops.layout import Layout
from clm_kernels.ops.parameters import Parameters

CSRC = ROOT / "csrc"


def built(name):
    try:
        return importlib.import_module(f"clm_kernels.{name}")
    except ImportError as error:
        pytest.skip(f"clm_kernels.{name} is not built: {error}")


def test_the_header_is_made_from_the_fields():
    spec = importlib.util.spec_from_file_location("make_fields", CSRC / "fields.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert (CSRC / "fields.h").read_text(encoding="utf-8") == made.header(), "run `python csrc/fields.py`, then build again"


@pytest.mark.parametrize("name", ["_cpu", "_cuda"])
def test_the_built_modules_have_these_fields(name):
    fields.check_build(built(name))


@pytest.mark.parametrize("said", [{}, {"fields": fields.SIGNATURE.replace("float32 float64", "float64 float32")}])
def test_a_build_with_other_fields_is_refused(said):
    with pytest.raises(ImportError, match=r"^_cpu was built from other sources than these$"):
        fields.check_build(SimpleNamespace(__name__="_cpu", **said))


@pytest.mark.parametrize("name", ["_cpu", "_cuda"])
@pytest.mark.parametrize("selected", [(0,) * (len(fields.ENTRIES) - 1), [0] * len(fields.ENTRIES), ("",) * len(fields.ENTRIES)])
def test_other_than_a_tuple_of_as_many_ints_is_refused(name, selected):
    with pytest.raises(TypeError, match="incompatible function arguments"):
        built(name).gather(0, selected, 4, 0, 0)


def test_parameters_have_the_tensors():
    assert Parameters._fields[: len(fields.TENSORS)] == fields.TENSORS


def test_tensors_are_handed_over_field_by_field():
    entries, dense = Entries.of("blocks", [1, 5], (8, 12), (2, 3)), torch.zeros(8, 12, dtype=torch.float16)
    index, compact = entries.index, torch.zeros(entries.compact_shape)
    assert dict(zip(fields.ARRAY, addresses.array(dense), strict=True)) == {"address": dense.data_ptr(), "dtype": 3}
    assert addresses.arrays([dense, compact]) == [addresses.array(dense), addresses.array(compact)]
    handed = dict(zip(fields.ENTRIES, addresses.entries(index, entries.layout, compact), strict=True))
    assert {name: handed.pop(name) for name in Layout._fields} == entries.layout._asdict()
    assert handed == {"index": index.data_ptr(), "index_bytes": 4, "count": 2, "size": 12}


def test_matrices_are_handed_over_field_by_field():
    built("_cpu")
    from clm_kernels.ops.cpu.arguments import matrix

    x = torch.zeros(4, 6, dtype=torch.bfloat16)[:, :3]
    handed = dict(zip(fields.MATRIX, matrix(x, sliced=True), strict=True))
    assert handed == {"address": x.data_ptr(), "stride": 6, "dtype": fields.DTYPES.index("bfloat16"), "sliced": True}


def test_triton_kernels_read_the_fields_that_their_names_say():
    pytest.importorskip("triton")
    from clm_kernels.ops.triton import adamw, grouped_grad

    tables = {"TENSORS": fields.TENSORS} | {
        row.__name__.upper(): row._fields for row in (adamw.Chunk, adamw.Shape, adamw.Scalars)
    }
    for module, known in ((adamw, tables), (grouped_grad, {"TILE": grouped_grad.Tile._fields})):
        for table, names in known.items():
            assert getattr(module, f"_{table}").value == len(names)
            assert [getattr(module, f"_{name.upper()}").value for name in names] == list(range(len(names)))
