"""The table of architectures: a handful of types that once failed, and a page that says what was found of all."""

import json

import pytest
import transformers
from packaging.version import Version
from transformers.models.auto import modeling_auto as auto

from benchmarks.architectures.table import PAGE, RESULT, table
from benchmarks.architectures.tiny import save_tiny
from benchmarks.architectures.trial import pooled, replayed, trial
from clm_kernels.finetune.models import load
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.models.refused import BY_PADDING, REASONS

STORED = json.loads(RESULT.read_text(encoding="utf-8"))
MAPPINGS = {
    "sequence": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}


@pytest.mark.parametrize("kind", ["xlm-roberta", "camembert", "xlnet", "openai-gpt"])
def test_a_type_trains(kind, tmp_path):
    save_tiny(kind, tmp_path)
    for task, kinds in MAPPINGS.items():
        if kind in kinds:
            trial(tmp_path, task)
    pooled(tmp_path)
    if kind != "xlnet":
        replayed(tmp_path)


@pytest.mark.parametrize("kind", ["bart", "t5", "gemma3", "canine", "xmod"])
def test_a_type_is_refused_before_anything_is_loaded(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ValueError, match=rf"^load: model .* must be of a type that can be trained .*, got {kind}: it "):
        load(tmp_path, TASKS["sequence"], ["a", "b"])


@pytest.mark.parametrize(("kind", "expected"), [("fnet", "pass padding by"), ("xlnet", "take texts before tokens")])
def test_what_cannot_be_replayed(kind, expected, tmp_path):
    save_tiny(kind, tmp_path)
    with pytest.raises(ValueError, match=rf"^replay: model must be one whose layers {expected}, got '{kind}'$"):
        replayed(tmp_path)


def test_the_page_has_the_stored_table():
    assert table(STORED) in PAGE.read_text(encoding="utf-8")


def test_every_type_stands_in_the_table_or_is_newer():
    names = {*MAPPINGS["sequence"], *MAPPINGS["token"]}
    newer = Version(transformers.__version__) > Version(STORED["transformers"])
    assert newer or names <= STORED["types"].keys()


def test_what_is_refused_stands_there_with_its_reason():
    for kind, reason in REASONS.items():
        assert reason in STORED["types"][kind].values()
    assert all(STORED["types"][kind]["replay"] != "yes" for kind in BY_PADDING)


def test_nothing_failed_without_a_word():
    """Every reason is a refusal, and no error of Python's or torch's."""
    reasons = {reason for found in STORED["types"].values() for reason in found.values()}
    assert not [reason for reason in reasons if "Error" in reason.partition(":")[0]]
