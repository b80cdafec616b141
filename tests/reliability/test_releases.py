"""What each release has left can be read by this version: deltas, selections, whole checkpoints, records of runs."""

import json
from pathlib import Path

import needs_datasets  # noqa: F401
import pytest
import torch

from clm_kernels import Classifier, Delta, Selection
from clm_kernels.finetune.artifacts import ACTIVE, DELTA, GROUPS, RUN, SELECTION
from clm_kernels.finetune.outputs import recorded_config
from clm_kernels.finetune.words.table import ActiveWords
from clm_kernels.token_groups import TokenGroups

RELEASES = sorted(path for path in (Path(__file__).parent / "releases").iterdir() if path.is_dir())
DELTAS = ("sparse", "tokens")
every_release = pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)


def expected(release, name):
    return json.loads((release / "predictions.json").read_text(encoding="utf-8"))[name]


@every_release
@pytest.mark.parametrize("name", [*DELTAS, "full"])
def test_predictions_are_what_they_were(release, name):
    given = (release / name,) if name == "full" else (release / "base", release / name / DELTA)
    texts, labels, probabilities = zip(*expected(release, name), strict=True)
    found = list(Classifier.load(*given).predict(texts))
    assert [prediction.label for prediction in found] == list(labels)
    assert [prediction.probability for prediction in found] == pytest.approx(list(probabilities), abs=1e-5)


@every_release
@pytest.mark.parametrize("name", DELTAS)
def test_the_selection_is_the_deltas(release, name):
    selection, delta = Selection.load(release / name / SELECTION), Delta.load(release / name / DELTA)
    assert selection.keys() == delta.selection.keys() and selection.count == delta.selection.count > 0
    assert all(torch.equal(entries.index, delta.selection[weight].index) for weight, entries in selection.items())
    assert delta.base == "" or release.name != "0.1.0"  # which did not know it


@every_release
@pytest.mark.parametrize("name", [*DELTAS, "full"])
def test_the_record_tells_the_options(release, name):
    recorded = json.loads((release / name / RUN).read_text(encoding="utf-8"))["config"]
    config = recorded_config(release / name).options()
    assert {option: config[option] for option in recorded} == recorded
    assert (config["method"], config["epochs"]) == ("full" if name == "full" else "sparse", 2)


@every_release
def test_words_and_groups(release):
    assert ActiveWords.load(release / "tokens" / ACTIVE).by_label
    assert TokenGroups.load(release / "tokens" / GROUPS)


@every_release
def test_a_whole_checkpoint_knows_the_columns(release):
    assert Classifier.load(release / "full").columns["text_column"] == "text"
