"""The one door through which a model folder reaches transformers and PEFT: no code of a folder runs, nothing is fetched or unpickled.

Folders come from strangers. What transformers would ask about on standard input, look up on the hub or hand to another
package is refused by name before it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import listed, require
from ..strangers import MEGABYTE, brief, cut, read_json

PREFIX = "clm_pooled_"  # of the types under which `save_portable` writes checkpoints
ATTENTION = ("eager", "sdpa", "flex_attention")  # any other name may be that of a kernel on the hub, which is code
EXPERTS = ("eager", "batched_mm", "grouped_mm")
WHOLE, INDEX, ADAPTER_CONFIG = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
OF_ADAPTERS = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "fan_in_fan_out", "modules_to_save", "task_type", "inference_mode",
    "base_model_name_or_path",
)  # fmt: skip


@contextmanager
def refusing(function: str, folder: str | os.PathLike, expected: str) -> Iterator[None]:
    """Turns whatever is raised over a folder's content into one line.

    Raises:
        ValueError: in place of every error but one of memory.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        message = cut((str(error).strip().splitlines() or [type(error).__name__])[0], 300)
        raise ValueError(f"{function}: {str(folder)!r} must be {expected}, got: {message}") from error


def described(folder: str | os.PathLike, file: str = "config.json") -> dict[str, Any]:
    """What a JSON file of a folder says; nothing where there is none.

    Raises:
        ValueError: if it is no JSON object.
    """
    path = Path(folder) / file
    with refusing("read_config", path, "a readable file"):
        if not path.is_file():
            return {}
    return read_json(path, "read_config", "a JSON object", most=16 * MEGABYTE if file == INDEX else MEGABYTE)


def read_config(folder: str | os.PathLike, **changes: Any) -> Any:
    """The config of any checkpoint, of one that `save_portable` wrote as well.

    What ``auto_map`` says of code in the folder is dropped, so that no later call finds it.

    Raises:
        ValueError: if it is none, is not of a class that transformers has, or asks for what would run, fetch or quantize.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    known = described(folder)
    place, kind = repr(str(Path(folder) / "config.json")), known.get("model_type")
    ours = isinstance(kind, str) and kind.removeprefix(PREFIX) in CONFIG_MAPPING
    expected = "of a model_type that transformers has, as no code of a folder is ever run"
    require(ours or not known, "read_config", place, expected, repr(kind))
    _check_config(place, known)
    with refusing("read_config", folder, "a model's folder"):
        if str(kind).startswith(PREFIX):
            plain = {name: value for name, value in known.items() if name not in ("auto_map", "model_type")}
            return AutoConfig.for_model(str(kind).removeprefix(PREFIX), **{**plain, **changes})
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **changes)
        vars(config).pop("auto_map", None)
        return config


def read_tokenizer(folder: str | os.PathLike, config: Any = None) -> Any:
    """The tokenizer in a folder.

    Raises:
        ValueError: if there is none, or it is not of a class that transformers has.
    """
    from transformers import AutoTokenizer

    with refusing("read_tokenizer", folder, "a tokenizer's folder"):
        return AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False, local_files_only=True)


def read_model(
    auto_class: Any, folder: str | os.PathLike, config: Any, dtype: str, tensors: Mapping[str, Tensor] | None = None
) -> tuple[Any, dict[str, Any]]:
    """A model of this config with the weights in a folder's safetensors files, and what transformers tells of loading them.

    Args:
        tensors: what `read_tensors_of` gave for the folder, whose files are then not read again. The model has copies.

    Raises:
        ValueError: if the weights are a pickle, lie elsewhere, or are an adapter's.
    """
    _check_weights(Path(folder))
    told = {
        "config": config, "dtype": dtype, "ignore_mismatched_sizes": True, "output_loading_info": True, "use_safetensors": True,
    }  # fmt: skip
    if tensors is None:
        return auto_class.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **told)
    with torch.random.fork_rng([]), torch.device("meta"):
        chosen = type(build_model(auto_class, config, torch.float32))
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    model, info = chosen.from_pretrained(None, state_dict=copies, trust_remote_code=False, local_files_only=True, **told)
    model.name_or_path = model.config.name_or_path = str(folder)
    return model, info


def read_tensors_of(folder: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors in a folder's safetensors files, in the order in which transformers reads them.

    Raises:
        ValueError: as `read_model`, or if a file is damaged.
    """
    from safetensors.torch import load_file

    _check_weights(Path(folder))
    whole = Path(folder) / WHOLE
    shards = [WHOLE] if whole.is_file() else sorted(set(described(folder, INDEX)["weight_map"].values()))
    with refusing("read_model", folder, "a folder with whole safetensors files"):
        return {name: tensor for shard in shards for name, tensor in load_file(Path(folder) / shard).items()}


def build_model(auto_class: Any, config: Any, dtype: torch.dtype) -> Any:
    """A model of this config with weights drawn at random."""
    return auto_class.from_config(config, dtype=dtype, trust_remote_code=False)


def read_adapter_config(folder: str | os.PathLike) -> Any:
    """PEFT's config of an adapter that the method lora left; what else PEFT could be told to import or fetch is refused.

    Raises:
        ValueError: if it is something else.
    """
    from peft import LoraConfig

    known, plain = described(folder, ADAPTER_CONFIG), LoraConfig().to_dict()
    other = [name for name, value in known.items() if name not in OF_ADAPTERS and value and value != plain.get(name)]
    other = [name for name in other if name not in ("peft_type", "peft_version")]
    place = repr(str(Path(folder) / ADAPTER_CONFIG))
    require(known.get("peft_type") == "LORA", "read_adapter_config", place, "of LoRA", brief(known.get("peft_type")))
    require(not other, "read_adapter_config", place, "one that the method lora left", f"one with {cut(listed(other, 3), 300)}")
    with refusing("read_adapter_config", folder, "an adapter's folder"):
        return LoraConfig(**{name: known[name] for name in OF_ADAPTERS if name in known})


def _check_config(place: str, known: dict[str, Any]) -> None:
    require(
        not known.get("quantization_config"), "read_config", place, "of weights that are not quantized", "a quantization_config"
    )
    elsewhere = known.get("transformers_weights")
    require(elsewhere is None, "read_config", place, "without transformers_weights", repr(elsewhere))
    for key, value in _entries(known):
        names = _texts(value)
        if key.strip("_").startswith("attn_implementation"):
            wrong = [name for name in names if name not in ATTENTION]
            require(not wrong, "read_config", place, f"without attention other than {listed(ATTENTION)}", listed(wrong, 2))
        if key.strip("_").startswith("experts_implementation"):
            wrong = [name for name in names if name not in EXPERTS]
            require(not wrong, "read_config", place, f"without experts other than {listed(EXPERTS)}", listed(wrong, 2))
    inner = [key for key, _ in _entries({key: value for key, value in known.items() if key != "auto_map"}) if key == "auto_map"]
    require(not inner, "read_config", place, "without code of a part of the model, as none is ever run", "an auto_map inside")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a JSON value with what stands under it, however deep."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield from one.items()
            left += one.values()
        elif isinstance(one, list):
            left += one


def _texts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [name for one in value.values() for name in _texts(one)]
    return [] if value is None else [value]


def _check_weights(folder: Path) -> None:
    adapter = (folder / ADAPTER_CONFIG).is_file()
    require(
        not adapter, "read_model", repr(str(folder)), "a whole model (`export` merges an adapter)", f"one with {ADAPTER_CONFIG}"
    )
    if (folder / WHOLE).is_file():
        return
    shards = described(folder, INDEX).get("weight_map")
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    expected = "a folder with weights in safetensors files; a pickle may hold code and is never read"
    found = listed(pickles, 2) if pickles else "none"
    require(isinstance(shards, dict), "read_model", repr(str(folder)), expected, found)
    wrong = sorted({str(name) for name in shards.values() if not _is_shard(name)})
    require(not wrong, "read_model", repr(str(folder / INDEX)), "of safetensors files in its folder", listed(wrong, 2))


def _is_shard(name: Any) -> bool:
    return isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")
