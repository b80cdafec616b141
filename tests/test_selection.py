"""Entries and Selections: what they refuse, set arithmetic against Python's sets, files."""

import copy
import pickle
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import KINDS, pick
from safetensors.torch import save_file

from clm_kernels import Entries, Selection

SHAPE, BLOCK = (4, 6), (2, 3)
i32 = torch.int32


def index(*numbers, dtype=i32):
    return torch.tensor(numbers, dtype=dtype)


def make(kind, numbers, shape=SHAPE):
    return Entries.of(kind, numbers, shape, BLOCK if kind == "blocks" else None)


REFUSED = [
    (lambda: Entries("lines", index(0), SHAPE), "Entries: kind must be one of rows, columns, blocks, elements, got 'lines'"),
    (lambda: Entries("dense", index(0), SHAPE), "Entries: kind must be one of rows, columns, blocks, elements, got 'dense'"),
    (
        lambda: Entries("rows", index(0), (4, 6, 2)),
        "Entries: shape must be two sizes (only 2-D weights can be selected from), got (4, 6, 2)",
    ),
    (
        lambda: Entries("rows", index(0), (4,)),
        "Entries: shape must be two sizes (only 2-D weights can be selected from), got (4,)",
    ),
    (
        lambda: Entries("rows", index(0), (4, -6)),
        "Entries: shape must be two sizes (only 2-D weights can be selected from), got (4, -6)",
    ),
    (
        lambda: Entries("rows", index(0), (4, 6.5)),
        "Entries: shape must be two sizes (only 2-D weights can be selected from), got (4, 6.5)",
    ),
    (lambda: Entries("rows", index(0), 4), "Entries: shape must be two sizes (only 2-D weights can be selected from), got 4"),
    (
        lambda: Entries("blocks", index(0), SHAPE),
        "Entries: block must be given for blocks and only for them, got None for blocks",
    ),
    (
        lambda: Entries("rows", index(0), SHAPE, BLOCK),
        "Entries: block must be given for blocks and only for them, got (2, 3) for rows",
    ),
    (lambda: Entries("blocks", index(0), SHAPE, (2, 4)), "Entries: block must divide the weight's shape (4, 6), got (2, 4)"),
    (lambda: Entries("blocks", index(0), SHAPE, (0, 3)), "Entries: block must divide the weight's shape (4, 6), got (0, 3)"),
    (lambda: Entries("blocks", index(0), SHAPE, (2,)), "Entries: block must be two sizes, got (2,)"),
    (lambda: Entries("rows", [0], SHAPE), "Entries: index must be a 1-D torch.int32 tensor, got list"),
    (
        lambda: Entries("rows", index(0, dtype=torch.int64), SHAPE),
        "Entries: index must be a 1-D torch.int32 tensor, got torch.int64 of shape (1,)",
    ),
    (
        lambda: Entries("rows", index([0]), SHAPE),
        "Entries: index must be a 1-D torch.int32 tensor, got torch.int32 of shape (1, 1)",
    ),
    (lambda: Entries("rows", torch.arange(4, dtype=i32)[::2], SHAPE), "Entries: index must be contiguous"),
    (
        lambda: Entries("rows", index(2, 1), SHAPE),
        "Entries: index must be sorted and unique, got another order; Entries.of sorts for you",
    ),
    (
        lambda: Entries("rows", index(1, 1), SHAPE),
        "Entries: index must be sorted and unique, got another order; Entries.of sorts for you",
    ),
    (lambda: Entries("rows", index(0, 4), SHAPE), "Entries: index must be in [0, 4), got 0 to 4"),
    (lambda: Entries("columns", index(-1, 5), SHAPE), "Entries: index must be in [0, 6), got -1 to 5"),
    (lambda: Entries("blocks", index(4), SHAPE, BLOCK), "Entries: index must be in [0, 4), got 4 to 4"),
    (lambda: Entries("elements", index(24), SHAPE), "Entries: index must be in [0, 24), got 24 to 24"),
    (lambda: Entries("rows", index(0), (0, 6)), "Entries: index must be in [0, 0), got 0 to 0"),
    # the same through `of` and `everything`, which come by their units before Entries itself can check
    (lambda: Entries.of("lines", [0], SHAPE), "Entries: kind must be one of rows, columns, blocks, elements, got 'lines'"),
    (
        lambda: Entries.of("rows", [0], (4, 6, 2)),
        "Entries: shape must be two sizes (only 2-D weights can be selected from), got (4, 6, 2)",
    ),
    (lambda: Entries.of("blocks", [0], SHAPE), "Entries: block must be given for blocks and only for them, got None for blocks"),
    (lambda: Entries.of("blocks", [0], SHAPE, (0, 3)), "Entries: block must divide the weight's shape (4, 6), got (0, 3)"),
    (lambda: Entries.everything("lines", SHAPE), "Entries: kind must be one of rows, columns, blocks, elements, got 'lines'"),
    (
        lambda: Entries.everything("blocks", SHAPE),
        "Entries: block must be given for blocks and only for them, got None for blocks",
    ),
    (lambda: Entries.of("rows", [0.0], SHAPE), "Entries.of: index must be integers, got torch.float32"),
    (lambda: Entries.of("rows", torch.tensor([True]), SHAPE), "Entries.of: index must be integers, got torch.bool"),
    (lambda: Entries.of("rows", [1j], SHAPE), "Entries.of: index must be integers, got torch.complex64"),
    (lambda: Entries.of("rows", ["0"], SHAPE), "Entries.of: index must be integers, got list: too many dimensions 'str'"),
    (lambda: Entries.of("rows", 3, SHAPE), "Entries.of: index must be integers, got int: 'int' object is not iterable"),
    (
        lambda: make("rows", [0]) | make("rows", [0], (4, 9)),
        "Entries: both must belong to one weight, got shapes (4, 6) and (4, 9)",
    ),
    (
        lambda: make("rows", [0]) & make("rows", [0], (6, 4)),
        "Entries: both must belong to one weight, got shapes (4, 6) and (6, 4)",
    ),
    (lambda: Selection({"w": [0, 1]}), "Selection: the value for 'w' must be Entries, got list"),
    (lambda: Selection.from_tensors({}, {}), "Selection: entries must be a kind, a shape and a block by name, got None"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_refused(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


class TestEntries:
    @pytest.mark.parametrize(
        "numbers", [[3, 0, 3, 1], (3, 0, 1), {0, 1, 3}, range(3, -1, -1), {3: "", 0: "", 1: ""}.keys()], ids=str
    )
    def test_of_sorts_and_drops_repeats(self, numbers):
        expected = [0, 1, 2, 3] if isinstance(numbers, range) else [0, 1, 3]
        entries = Entries.of("rows", numbers, SHAPE)
        assert entries.index.tolist() == expected and entries.index.dtype == i32

    @pytest.mark.parametrize("units", [40, 10_000])  # 16 times the numbers lie between
    def test_of_is_sorted_and_unique_however_many_units_there_are(self, units):
        numbers = torch.randint(units, (100,), generator=torch.Generator().manual_seed(0))
        numbers[:3] = torch.tensor([units - 1, 0, units - 1])
        entries = Entries.of("rows", numbers, (units, 2))
        assert entries.index.tolist() == sorted(set(numbers.tolist()))
        for outside in (-1, units):
            with pytest.raises(ValueError, match=rf"index must be in \[0, {units}\)"):
                Entries.of("rows", torch.cat([numbers, torch.tensor([outside])]), (units, 2))

    def test_without_data_there_are_only_sizes(self):
        entries = Entries.without_data("blocks", 3, SHAPE, BLOCK)
        drawn = make("blocks", [0, 1, 2])
        assert (entries.layout, entries.compact_shape, entries.count) == (drawn.layout, drawn.compact_shape, drawn.count)
        assert entries.index.is_meta and entries.index.dtype == i32
        assert entries == entries and entries not in (drawn, Entries.without_data("blocks", 3, SHAPE, BLOCK))
        for count in (-1, drawn.units + 1):
            with pytest.raises(ValueError, match=f"count must be from 0 to {drawn.units}, got {count}"):
                Entries.without_data("blocks", count, SHAPE, BLOCK)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
    def test_of_takes_any_integers_and_shape(self, dtype):
        assert Entries.of("elements", index([5, 2], [0, 5], dtype=dtype), SHAPE) == Entries("elements", index(0, 2, 5), SHAPE)

    @pytest.mark.parametrize("empty", [[], (), torch.tensor([]), torch.tensor([], dtype=torch.int64)], ids=str)
    @pytest.mark.parametrize("kind", KINDS)
    def test_empty(self, kind, empty):
        entries = make(kind, empty)
        assert entries.index.dtype == i32 and entries.count == 0 and entries.density == 0
        assert entries.flat_index().shape == entries.compact_shape
        assert 0 in entries.compact_shape and entries == make(kind, []) and entries | entries == entries == entries & entries

    @pytest.mark.parametrize(
        ("kind", "units", "shape", "density"),
        [
            ("rows", 4, (2, 6), 2 / 4),
            ("columns", 6, (4, 2), 2 / 6),
            ("blocks", 4, (2, 2, 3), 2 / 4),
            ("elements", 24, (2,), 2 / 24),
        ],
    )
    def test_sizes(self, kind, units, shape, density):
        entries = make(kind, [0, 2])
        assert (entries.units, entries.compact_shape, entries.density) == (units, shape, density)
        assert entries.count == torch.Size(shape).numel()
        assert repr(entries).startswith(f"Entries(2 of {units} {kind}, shape=(4, 6)")

    @pytest.mark.parametrize("kind", KINDS)
    def test_flat_index_numbers_the_entries_in_compact_order(self, kind):
        entries = make(kind, [0, 3])
        assert torch.equal(entries.flat_index(), pick(torch.arange(24).view(SHAPE), entries))
        assert entries.flat_index().dtype == torch.int64
        assert entries.as_elements().index.tolist() == sorted(entries.flat_index().flatten().tolist())

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("shape", [SHAPE, (2, 3), (0, 3), (2, 0)])
    def test_everything(self, kind, shape):
        entries = Entries.everything(kind, shape, BLOCK if kind == "blocks" else None)
        assert entries.flat_index().flatten().sort().values.tolist() == list(range(shape[0] * shape[1]))
        assert entries.density == (1.0 if 0 not in shape else 0.0)

    @pytest.mark.parametrize("kind", KINDS)
    def test_copies(self, kind):
        entries = make(kind, [0, 2])
        assert copy.deepcopy(entries) == entries == pickle.loads(pickle.dumps(entries))
        assert entries.to("cpu") is entries
        assert entries.to("meta").index.device.type == "meta" and entries.to("meta").layout == entries.layout

    def test_shapes_are_tuples_of_ints_however_given(self):
        given = Entries("blocks", index(0), torch.Size(SHAPE), [torch.tensor(2), 3])
        assert given == make("blocks", [0]) == given | make("blocks", [0])
        assert [type(number) for number in (*given.shape, *given.block)] == [int] * 4 and (given.shape, given.block) == (
            SHAPE,
            BLOCK,
        )

    def test_is_equal_by_value_and_cannot_be_a_key(self):
        assert make("rows", [0]) != make("rows", [1]) and make("rows", [0]) != make("columns", [0])
        assert make("rows", [0]) != make("rows", [0], (4, 9)) and make("rows", [0]) != 0
        with pytest.raises(TypeError, match="unhashable"):
            hash(make("rows", [0]))


class TestBeyondInt32:
    """70000 x 40000 has 2.8e9 elements; few are selected."""

    shape, far = (70_000, 40_000), 70_000 * 40_000 - 1

    def test_elements_are_int64(self):
        entries = Entries.of("elements", [self.far, 0, 2**31], self.shape)
        assert entries.index.dtype == torch.int64 and entries.index.tolist() == [0, 2**31, self.far]
        with pytest.raises(ValueError, match=r"must be a 1-D torch.int64 tensor, got torch.int32"):
            Entries("elements", index(0), self.shape)

    def test_the_boundary(self):
        assert Entries.of("elements", [0], (1, 2**31 - 1)).index.dtype == torch.int32
        assert Entries.of("elements", [0], (1, 2**31)).index.dtype == torch.int64
        assert Entries.of("columns", [2**31 - 1], (1, 2**31)).index.tolist() == [2**31 - 1]

    def test_flat_indices_do_not_wrap(self):
        assert Entries.of("rows", [69_999], self.shape).flat_index()[0, -1] == self.far
        assert Entries.of("columns", [39_999], self.shape).flat_index()[-1, 0] == self.far
        assert Entries.of("blocks", [70_000 * 20_000 // 2 - 1], self.shape, (2, 2)).flat_index()[0, -1, -1] == self.far

    def test_kinds_meet_as_elements(self):
        rows, element = Entries.of("rows", [69_999], self.shape), Entries.of("elements", [self.far, 5], self.shape)
        assert (rows | element).count == 40_001 and (rows & element).index.tolist() == [self.far]

    def test_in_a_file(self, tmp_path):
        selection = Selection({"w": Entries.of("elements", [self.far], self.shape)})
        selection.save(tmp_path / "s")
        assert Selection.load(tmp_path / "s") == selection


@st.composite
def entries_of_one_weight(draw):
    kind = draw(st.sampled_from(KINDS))
    block = draw(st.sampled_from([(2, 3), (1, 2), (4, 6)])) if kind == "blocks" else None
    units = Entries.of(kind, [], SHAPE, block).units
    return Entries.of(kind, draw(st.lists(st.integers(0, units - 1))), SHAPE, block)


def numbers(entries):
    return set(entries.flat_index().flatten().tolist())


@given(a=entries_of_one_weight(), b=entries_of_one_weight())
def test_set_arithmetic(a, b):
    for result, expected in ((a | b, numbers(a) | numbers(b)), (a & b, numbers(a) & numbers(b))):
        assert numbers(result) == expected and result.count == len(expected)
        assert result.kind == (a.kind if (a.kind, a.block) == (b.kind, b.block) else "elements")
        assert Entries(result.kind, result.index, result.shape, result.block) == result  # sorted, unique, of the right dtype


selections = st.dictionaries(st.sampled_from(["a.weight", "b.weight", "c"]), entries_of_one_weight()).map(Selection)


def numbered(selection):
    return {(name, number) for name, entries in selection.items() for number in numbers(entries)}


@given(a=selections, b=selections)
def test_selections_merge_and_intersect_weight_by_weight(a, b):
    before = numbered(a), numbered(b)
    assert numbered(a | b) == before[0] | before[1] and set(a | b) == set(a) | set(b)
    assert numbered(a & b) == before[0] & before[1] and all(entries.count for entries in (a & b).values())
    assert (numbered(a), numbered(b)) == before
    assert (a | b).count == len(numbered(a | b))


class TestSelection:
    weights = {"layer.0.weight": torch.zeros(SHAPE), "layer.1.weight": torch.zeros(6, 4)}
    selection = Selection([("layer.1.weight", make("rows", [5, 1], (6, 4))), ("layer.0.weight", make("blocks", [2]))])

    def test_keeps_its_order(self):
        assert list(self.selection) == ["layer.1.weight", "layer.0.weight"]
        assert len(self.selection) == 2 and "layer.0.weight" in self.selection

    def test_summary(self):
        first, second = self.selection.summary()
        assert first == ("layer.1.weight", "rows", 2, 6, 8, 24)
        assert second._asdict() == {
            "name": "layer.0.weight", "kind": "blocks", "selected_units": 1, "units": 4, "selected_entries": 6, "entries": 24,
        }  # fmt: skip

    def test_str(self):
        first, second, last = str(self.selection).splitlines()
        assert first.split() == ["layer.1.weight", "2", "of", "6", "rows", "33.33%"]
        assert second.split() == ["layer.0.weight", "1", "of", "4", "blocks", "25.00%"]
        assert last == "14 entries of 2 weights" and str(Selection()) == "0 entries of 0 weights"

    def test_check(self):
        self.selection.check(self.weights)
        with pytest.raises(
            ValueError, match=r"^Selection: 'layer.0.weight' is not a weight of this model; it was made for another one$"
        ):
            self.selection.check({"layer.1.weight": torch.zeros(6, 4)})
        message = "Selection: 'layer.1.weight' must have shape (6, 4), got (4, 6); it was made for another model"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            self.selection.check(self.weights | {"layer.1.weight": torch.zeros(4, 6)})


class TestFile:
    @given(selection=selections)
    def test_round_trip(self, tmp_path_factory, selection):
        path = tmp_path_factory.mktemp("selection") / "s.safetensors"
        selection.save(path)
        loaded = Selection.load(path)
        assert loaded == selection and list(loaded) == list(selection)

    def test_names_may_share_one_index(self, tmp_path):
        """Tied weights have one Entries under two names; safetensors refuses tensors that share memory."""
        shared, numbers = make("rows", [0, 2]), torch.arange(6, dtype=i32)
        selection = Selection(
            {"a": shared, "b": shared, "c": Entries("columns", numbers[2:5], SHAPE), "d": Entries("columns", numbers[3:], SHAPE)}
        )
        selection.save(tmp_path / "s")
        assert Selection.load(tmp_path / "s") == selection

    def test_saving_again_replaces(self, tmp_path):
        Selection({"w": make("rows", [0])}).save(tmp_path / "new" / "s")
        Selection().save(str(tmp_path / "new" / "s"))
        assert Selection.load(tmp_path / "new" / "s") == Selection()

    @pytest.fixture
    def content(self, tmp_path):
        Selection({"w": make("elements", range(0, 24, 3)), "v": make("rows", [1])}).save(tmp_path / "s")
        return (tmp_path / "s").read_bytes()

    def test_every_truncation_is_refused(self, tmp_path, content):
        for length in range(0, len(content), 7):
            (tmp_path / "s").write_bytes(content[:length])
            with pytest.raises(ValueError, match=r"^Selection.load: '.*s' is truncated or no safetensors file: "):
                Selection.load(tmp_path / "s")

    def test_every_altered_byte_is_refused(self, tmp_path, content):
        for at in range(len(content)):
            if content[at] == ord(" "):
                continue  # padding of the header
            (tmp_path / "s").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            with pytest.raises(ValueError, match=r"^Selection"):
                Selection.load(tmp_path / "s")

    def test_a_changed_index_that_is_still_valid_is_refused(self, tmp_path, content):
        assert content.endswith(bytes([1, 0, 0, 0]) + b"".join(bytes([n, 0, 0, 0]) for n in range(0, 24, 3)))
        (tmp_path / "s").write_bytes(content[:-4] + bytes([22, 0, 0, 0]))
        with pytest.raises(
            ValueError, match=r"^Selection.load: '.*s' has been altered since it was saved: its checksum does not match$"
        ):
            Selection.load(tmp_path / "s")

    def test_other_files_are_refused(self, tmp_path):
        save_file({"w": torch.zeros(3)}, tmp_path / "s")
        with pytest.raises(ValueError, match=r"^Selection.load: '.*s' must have format clm_kernels.selection/1, got None$"):
            Selection.load(tmp_path / "s")
        save_file({"w": torch.zeros(3)}, tmp_path / "s", {"format": "clm_kernels.delta/1"})
        with pytest.raises(ValueError, match=r"got clm_kernels.delta/1$"):
            Selection.load(tmp_path / "s")
        (tmp_path / "s").write_text("not safetensors at all, but long enough for a header")
        with pytest.raises(ValueError, match=r"is truncated or no safetensors file"):
            Selection.load(tmp_path / "s")
        with pytest.raises(FileNotFoundError):
            Selection.load(tmp_path / "absent")

    @pytest.mark.parametrize(
        "described",
        [
            "[]",
            "{",
            "{}x",
            '{"w": {}}',
            '{"w": {"kind": "rows", "shape": null, "block": null}}',
            '{"w": 3}',
            '{"w": {"kind": "rows"}}',
        ],
    )
    def test_damaged_descriptions_are_refused(self, described):
        with pytest.raises(ValueError, match=r"^Selection: entries must be "):
            Selection.from_tensors({"w": index(0)}, {"entries": described})
