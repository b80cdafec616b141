"""Training data on a hub, as ``hf://datasets/OWNER/NAME@REVISION:CONFIG``: fetched by `datasets` once, kept as a file for each part.

No code of a data set is run: `datasets` has not done so since its version 4.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from ..errors import listed, require
from ..extras import needs
from ..strangers import cut

if TYPE_CHECKING:
    from datasets import Dataset

PREFIX = "hf://datasets/"
NAMED = re.compile(r"((?:[\w.-]+/)?[\w.-]+)(?:@([^:]+))?(?::(.+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
ROWS = 1000  # that are written at a time


class Address(NamedTuple):
    """A data set, at a revision and in a configuration; an empty one is the hub's default."""

    name: str
    revision: str
    configuration: str

    @classmethod
    def of(cls, text: str) -> Address:
        """Raises ValueError for what names no data set."""
        found = NAMED.fullmatch(text.removeprefix(PREFIX))
        require(found is not None, "train", "train", f"{PREFIX}OWNER/NAME, with @REVISION and :CONFIG if need be", repr(text))
        assert found is not None
        return cls(*(part or "" for part in found.groups()))

    def __str__(self) -> str:
        revision, configuration = self.revision and f"@{self.revision}", self.configuration and f":{self.configuration}"
        return f"{PREFIX}{self.name}{revision}{configuration}"


def on_hub(path: str) -> bool:
    """Whether it names a data set of the hub, and no file."""
    return str(path).startswith(PREFIX)


def pinned(path: str) -> str:
    """The same at the commit that its revision is now.

    Raises:
        RuntimeError: if the hub does not say.
    """
    address = Address.of(path)
    if COMMIT.fullmatch(address.revision):
        return path
    return str(address._replace(revision=_commit(address)))


def as_begun(path: str, begun: str, say: Callable[[str], None]) -> str:
    """The data of a run that goes on, at the commit that it was begun with, whatever the hub has by now.

    Args:
        path: an address; one without a revision asks the hub nothing.
        begun: what the run was begun with.

    Raises:
        ValueError: for another data set, or a revision that is another commit.
        RuntimeError: if the hub does not say what a revision is.
    """
    kept = Address.of(begun) if on_hub(begun) else None
    if kept is not None and kept.revision and Address.of(path) == kept._replace(revision=""):
        say(f"{path} at the commit that the run was begun with, {kept.revision}")
        return begun
    now = pinned(path)
    require(
        now == begun,
        "train",
        "train",
        f"{begun!r} as in the run to resume",
        f"{path!r}" + (f", now {now!r}" if now != path else ""),
    )
    return begun


def with_address(record: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the data, with its address beside each part that a hub has given: its file is one of a cache.

    Args:
        record: as `Corpus` has it.
        given: the options of the run file.
    """
    if not on_hub(given["train"]):
        return dict(record)
    parts = [part for part in ("train", "validation", "test") if part in record and (part == "train" or not given[part])]
    return {**record, **{part: {**record[part], "address": given["train"]} for part in parts}}


def fetched(path: str, names: frozenset[str]) -> Path:
    """A folder with a parquet file for each part of a pinned data set; fetched once, and kept where `datasets` keeps its own.

    Args:
        names: that a part may have; others are left out.

    Raises:
        RuntimeError: if the hub does not give it.
        ValueError: for a data set without such parts.
    """
    address = Address.of(path)
    datasets = needs("datasets", "train")
    kept = Path(datasets.config.HF_DATASETS_CACHE) / "clm_kernels" / address.name.replace("/", "___")
    folder = kept / f"{address.revision}{quote(address.configuration and f'-{address.configuration}', safe='')}"
    if folder.is_dir():
        return folder
    here = os.path.exists(address.name)  # which `datasets` would take in its place
    require(not here, "train", str(address), f"asked for where no {address.name!r} lies in the working directory", "one")
    _commit(address)  # else a hub that is out of reach would be tried for half a minute
    with _written_to(kept), tempfile.TemporaryDirectory(prefix=".writing-", dir=kept) as writing:
        whole, arrow = Path(writing) / "parts", Path(writing) / "arrow"  # a cache of another commit would be taken in need
        whole.mkdir()
        with _reached(address):
            parts = datasets.load_dataset(
                address.name, address.configuration or None, revision=address.revision, cache_dir=str(arrow)
            )
        known = {name: rows for name, rows in parts.items() if name.lower() in names}
        require(bool(known), "train", str(address), "a data set with a part train", listed(parts))
        with _reached(address):
            for name, rows in known.items():
                _write(rows, whole / f"{name}.parquet")
        try:
            os.replace(whole, folder)
        except OSError:  # another process has been faster
            if not folder.is_dir():
                raise
    return folder


@contextmanager
def _written_to(kept: Path) -> Iterator[None]:
    try:
        kept.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise RuntimeError(
            f"train: the cache of datasets must be a folder that can be written to, got {str(kept)!r} ({error})"
        ) from error


def _commit(address: Address) -> str:
    """What its revision is now."""
    with _reached(address):
        return needs("huggingface_hub", "train").HfApi().dataset_info(address.name, revision=address.revision or None).sha


@contextmanager
def _reached(address: Address) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of many kinds: no hub, no such data set, no right to it, no such configuration, a script
        said = cut(" ".join(str(error).split()) or type(error).__name__, 300)
        by_hand = f"hf download {address.name} --repo-type dataset --local-dir DIR"
        raise RuntimeError(
            f"train: {address} was not fetched ({said}); where a hub is in reach, {by_hand}, and then --train DIR"
        ) from error


def _write(rows: Dataset, path: Path) -> None:
    """The rows, with names in place of numbers where the numbers are labels; nothing where no row has its label."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    labels = {name: feature for name, feature in rows.features.items() if _label(feature) is not None}
    if _unlabelled(rows, labels):
        return
    writer = None
    for table in rows.with_format("arrow").iter(ROWS):
        for name, feature in labels.items():
            values, at = [_named(feature, value) for value in table[name].to_pylist()], table.column_names.index(name)
            table = table.set_column(at, name, pyarrow.array(values, _type(feature)))
        writer = writer or ParquetWriter(path, table.schema.remove_metadata())
        writer.write_table(table.replace_schema_metadata())
    if writer is not None:
        writer.close()


def _label(feature: Any) -> Any:
    """The `ClassLabel` of a column, or of the lists in it; None for another column."""
    inner = getattr(feature, "feature", None)
    return feature if hasattr(feature, "int2str") else None if inner is None else _label(inner)


def _unlabelled(rows: Dataset, labels: dict[str, Any]) -> bool:
    """Whether each label is -1, as in test data whose labels are kept back."""
    from pyarrow.compute import max as largest

    found = [largest(rows.data.column(name)).as_py() for name, feature in labels.items() if feature is _label(feature)]
    return bool(found) and all(number is None or number < 0 for number in found)


def _named(feature: Any, value: Any) -> Any:
    if isinstance(value, list):
        return [_named(feature.feature, one) for one in value]
    return None if value is None or value < 0 else feature.names[value]


def _type(feature: Any) -> Any:
    import pyarrow

    return pyarrow.string() if feature is _label(feature) else pyarrow.list_(_type(feature.feature))
