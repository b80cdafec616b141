"""PEFT's test modules, imported from a checkout that is told by an environment variable."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import MagicMock

CHECKOUT, CHECKPOINTS = (
    "PEFT_CHECKOUT",
    "PEFT_SUITE_CHECKPOINTS",
)  # environment variables: PEFT's source, a folder for tiny models
PACKAGE = "tests_of_peft"
MODULES = (
    "test_custom_models",
    "test_decoder_models",
    "test_encoder_decoder_models",
    "test_feature_extraction_models",
    "test_seq_classifier",
    "test_token_classification_qa",
)


def modules() -> list[types.ModuleType]:
    """The modules; their tests reach no hub."""
    folder = Path(os.environ[CHECKOUT]) / "tests"
    if PACKAGE not in sys.modules:
        package = types.ModuleType(PACKAGE)
        package.__path__ = [str(folder)]
        sys.modules[PACKAGE] = package
    if importlib.util.find_spec("diffusers") is None:
        sys.modules["diffusers"] = MagicMock(
            StableDiffusionPipeline=type("StableDiffusionPipeline", (), {})
        )  # which no test here needs
    found = [importlib.import_module(f"{PACKAGE}.{name}") for name in MODULES]
    for module in (*found, sys.modules[f"{PACKAGE}.testing_common"]):
        module.hub_online_once = _offline
    return found


@contextmanager
def _offline(model_id: str) -> Iterator[None]:
    yield


def classes(module: types.ModuleType) -> list[type]:
    """The module's own classes of tests."""
    return [each for each in vars(module).values() if _holds_tests(each) and each.__module__ == module.__name__]


def _holds_tests(found: object) -> bool:
    return inspect.isclass(found) and found.__name__.startswith("Test")
