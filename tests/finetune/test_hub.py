"""Training data on a hub: one that is made up, and a server on loopback that huggingface_hub and datasets ask themselves."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import needs_datasets  # noqa: F401

# isort: split
import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from hub_stand_in import COMMIT, hub
from interruption import stop
from pyarrow.parquet import read_table
from tiny_runs import assert_same, base, silent, trained_tensors  # noqa: F401
from tiny_task import TOPICS, texts

from clm_kernels.finetune import train
from clm_kernels.finetune.classifier import Classifier
from clm_kernels.finetune.config import Data, TrainConfig
from clm_kernels.finetune.hub import Address, pinned
from clm_kernels.finetune.parts import with_files
from clm_kernels.finetune.run_file import load_run_file, read_run
from clm_kernels.finetune.shipping.card import write_card

NAMES = sorted(TOPICS)
FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=NAMES)})
ADDRESS = "hf://datasets/me/intents"


def rows(count, seed):
    return Dataset.from_list(texts(count, seed), features=FEATURES)


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """What `load_dataset` gives, to be filled; and what it was asked for."""
    parts, asked = {}, []

    def load_dataset(*given, **options):
        asked.append((*given, options["revision"]))
        return parts

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "huggingface_hub.HfApi", lambda: SimpleNamespace(dataset_info=lambda name, revision: SimpleNamespace(sha=COMMIT))
    )
    return SimpleNamespace(parts=parts, asked=asked)


@pytest.mark.parametrize(
    "text", [ADDRESS, f"{ADDRESS}@refs/convert/parquet", f"{ADDRESS}@v1:small", f"{ADDRESS}:a-b", "hf://datasets/x"]
)
def test_an_address_is_written_as_it_is_read(text):
    assert str(Address.of(text)) == text
    assert Address.of(f"{ADDRESS}@refs/a:b") == ("me/intents", "refs/a", "b")


@pytest.mark.parametrize("text", ["hf://datasets/", f"{ADDRESS}/train.csv", f"{ADDRESS}@", "hf://datasets/a b"])
def test_what_names_no_data_set_is_refused(text):
    with pytest.raises(ValueError, match="train must be hf://datasets/OWNER/NAME, with @REVISION and :CONFIG"):
        pinned(text)


def test_labels_get_their_names_in_lists_too(loaded):
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=["O", "B-X"])), "n": Value("int64")})
    content = {"tokens": [["a", "b"], []], "tags": [[0, 1], []], "n": [3, 4]}
    loaded.parts |= {"train": Dataset.from_dict(content, features=features), "other": rows(3, 0)}
    with with_files(Data(train=f"{ADDRESS}@main:tagged")) as data:
        assert read_table(data.train).to_pydict() == content | {"tags": [["O", "B-X"], []]}
        assert sorted(path.name for path in Path(data.train).parent.iterdir()) == ["train.parquet"]
    assert loaded.asked == [("me/intents", "tagged", COMMIT)]


def test_it_is_fetched_once(loaded, monkeypatch):
    loaded.parts["train"] = rows(6, 0)
    with with_files(Data(train=ADDRESS)) as first:
        pass
    monkeypatch.setattr("huggingface_hub.HfApi", None)
    with with_files(Data(train=f"{ADDRESS}@{COMMIT}")) as second:
        assert second == first and len(loaded.asked) == 1
    assert [path.name for path in Path(first.train).parents[1].iterdir()] == [COMMIT]  # nothing half written stays


def test_a_part_without_labels_is_left_out_and_without_train_it_is_refused(loaded):
    kept_back = Dataset.from_dict({"text": ["a"], "label": [-1]}, features=FEATURES)
    loaded.parts |= {"train": rows(6, 0), "validation": rows(3, 1), "test": kept_back}
    with with_files(Data(train=ADDRESS)) as data:
        assert Path(data.validation).name == "validation.parquet" and not data.test
    del loaded.parts["train"], loaded.parts["validation"]
    loaded.parts["all"] = rows(3, 0)
    del loaded.parts["test"]
    with (
        pytest.raises(ValueError, match="must be a data set with a part train, got 'all'"),
        with_files(Data(train=f"{ADDRESS}:b")),
    ):
        pass


def test_it_is_train_alone(loaded):
    for name in ("validation", "test"):
        said = f"{name} must be a file, as standard input and the hub are train's alone"
        with pytest.raises(ValueError, match=said), with_files(Data(train="x.csv", **{name: ADDRESS})):
            pass


@pytest.mark.parametrize("error", [ConnectionError("no way\nthere"), ValueError("Config name is missing.\nPick one")])
def test_what_the_hub_says_is_one_line_with_what_to_do(loaded, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fails)
    said = " ".join(str(error).split())
    with pytest.raises(RuntimeError) as raised, with_files(Data(train=f"{ADDRESS}@{COMMIT}:x")):
        pass
    assert str(raised.value) == (
        f"train: {ADDRESS}@{COMMIT}:x was not fetched ({said}); where a hub is in reach, hf download me/intents --repo-type dataset"
        " --local-dir DIR, and then --train DIR"
    )


def test_a_run_records_its_commit_and_is_repeated(base, loaded, tmp_path, monkeypatch):  # noqa: F811
    loaded.parts |= {"train": rows(24, 0), "test": rows(6, 2)}
    config = replace(base, train=ADDRESS, validation="", test="", epochs=1, output=str(tmp_path / "a"))
    report = train(config, silent)
    assert report.labels == NAMES and report.test and report.data["test"]["rows"] == 6
    file = load_run_file(tmp_path / "a" / "run.yaml")
    assert (file.options["train"], file.options["test"]) == (f"{ADDRESS}@{COMMIT}", "")
    monkeypatch.setattr("huggingface_hub.HfApi", None)
    again = train(read_run(tmp_path / "a" / "run.yaml", silent, output=str(tmp_path / "b")), silent)
    assert again.data == report.data
    assert_same(trained_tensors(tmp_path / "a"), trained_tensors(tmp_path / "b"))


LATER = "f" * 40


@pytest.fixture
def stopped(base, loaded, tmp_path, monkeypatch):  # noqa: F811
    """A run on hub data that was interrupted, and whose data set has had a new commit since."""
    loaded.parts |= {"train": rows(24, 0), "test": rows(6, 2)}
    config = replace(base, train=f"{ADDRESS}@main", validation="", test="", epochs=1, output=str(tmp_path / "a"))
    stop(config, 2)
    loaded.parts["train"] = rows(16, 5)
    commits = {"main": LATER, "v1": COMMIT}
    monkeypatch.setattr(
        "huggingface_hub.HfApi",
        lambda: SimpleNamespace(dataset_info=lambda name, revision: SimpleNamespace(sha=commits[revision or "main"])),
    )
    return TrainConfig(output=config.run.output, resume=True)


def test_a_run_goes_on_at_its_commit_though_there_is_a_newer_one(stopped, loaded):
    said, asked = [], list(loaded.asked)
    report = train(replace(stopped, train=ADDRESS), said.append)
    assert said[0] == f"{ADDRESS} at the commit that the run was begun with, {COMMIT}"
    assert report.data["train"]["rows"] + report.data["validation"]["rows"] == 24 and loaded.asked == asked


@pytest.mark.parametrize("address", ["", f"{ADDRESS}@{COMMIT}", f"{ADDRESS}@v1"])
def test_a_revision_that_is_the_commit_of_the_run_goes_on(stopped, address):
    again = replace(stopped, train=address) if address else stopped
    assert train(again, silent).data["train"]["address"] == f"{ADDRESS}@{COMMIT}"


@pytest.mark.parametrize(
    ("address", "got"),
    [
        (f"{ADDRESS}@main", f"'{ADDRESS}@main', now '{ADDRESS}@{LATER}'"),
        (f"{ADDRESS}@{LATER}", f"'{ADDRESS}@{LATER}'"),
        (f"{ADDRESS}:small", f"'{ADDRESS}:small', now '{ADDRESS}@{LATER}:small'"),
        ("hf://datasets/me/other", f"'hf://datasets/me/other', now 'hf://datasets/me/other@{LATER}'"),
    ],
)
def test_another_revision_or_data_set_is_refused(stopped, loaded, address, got):
    asked = list(loaded.asked)
    with pytest.raises(ValueError) as raised:
        train(replace(stopped, train=address), silent)
    assert str(raised.value) == f"train: train must be '{ADDRESS}@{COMMIT}' as in the run to resume, got {got}"
    assert loaded.asked == asked  # nothing is fetched to find out


def test_a_run_on_files_does_not_go_on_with_a_hub(base, loaded, tmp_path):  # noqa: F811
    config = replace(base, epochs=1, output=str(tmp_path / "a"))
    stop(config, 2)
    with pytest.raises(ValueError, match=r"train must be '.*train\.jsonl' as in the run to resume, got 'hf://.*', now"):
        train(TrainConfig(output=config.run.output, resume=True, train=ADDRESS), silent)


def test_what_a_run_leaves_names_the_address(base, loaded, tmp_path):  # noqa: F811
    """And a file where one was given beside it."""
    loaded.parts |= {"train": rows(24, 0), "test": rows(6, 2)}
    report = train(replace(base, train=ADDRESS, test="", epochs=1, output=str(tmp_path / "a")), silent)
    assert {part: report.data[part].get("address") for part in ("train", "validation", "test")} == {
        "train": f"{ADDRESS}@{COMMIT}", "validation": None, "test": f"{ADDRESS}@{COMMIT}",
    }  # fmt: skip
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert ".parquet" not in page and page.count(f"{ADDRESS}@{COMMIT}") == 5  # in words, of two parts and two options
    assert Path(base.data.validation).name in page
    write_card(tmp_path, Classifier.load(tmp_path / "a").served(), "checkpoint", tmp_path / "a", [])
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert ".parquet" not in card and f"| train | {ADDRESS}@{COMMIT} |" in card and f"On {ADDRESS}@{COMMIT}, scored" in card


def test_an_address_is_no_path():
    assert TrainConfig(model="m", train=ADDRESS).absolute().data.train == ADDRESS


ASKING = """
import sys
from pathlib import Path
from clm_kernels.finetune.config import Data
from clm_kernels.finetune.parts import with_files

with with_files(Data(train=sys.argv[1])) as data:
    print(data.train, data.test, sep="\\n")
Path(sys.argv[2]).write_text(f"open({sys.argv[3]!r}, 'w')")
try:
    with with_files(Data(train=sys.argv[1] + ":other")):
        pass
except RuntimeError as error:
    print(error)
"""


def test_a_real_client_fetches_it_and_runs_no_code(tmp_path):
    """In a process of its own, as huggingface_hub reads its environment once."""
    repository = tmp_path / "repository"
    repository.mkdir()
    for part, count in (("train", 9), ("test", 6)):
        rows(count, count).to_parquet(str(repository / f"{part}-00000-of-00001.parquet"))
    with hub(repository) as (environment, asked):
        environment |= {"HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", ASKING, ADDRESS, str(repository / "intents.py"), str(tmp_path / "ran")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    train_file, test_file, refused = done.stdout.splitlines()
    assert read_table(train_file).to_pylist() == texts(9, 9) and read_table(test_file).num_rows == 6
    assert f"GET /datasets/me/intents/resolve/{COMMIT}/train-00000-of-00001.parquet" in asked
    assert refused.startswith(f"train: {ADDRESS}@{COMMIT}:other was not fetched (Dataset scripts are no longer supported")
    assert not (tmp_path / "ran").exists()


def test_offline_it_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    for address in (ADDRESS, f"{ADDRESS}@{COMMIT}"):
        with (
            pytest.raises(RuntimeError, match=r"offline mode is enabled.*, and then --train DIR"),
            with_files(Data(train=address)),
        ):
            pass


def test_a_folder_of_its_name_is_not_taken_for_it(loaded, tmp_path, monkeypatch):
    loaded.parts["train"] = rows(12, 0)
    (tmp_path / "me" / "intents").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(ValueError, match=r"must be asked for where no 'me/intents' lies in the working directory"),
        with_files(Data(train=ADDRESS)),
    ):
        pass
    assert loaded.asked == []


def test_a_cache_that_cannot_be_written_to(loaded, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "file"))
    with (
        pytest.raises(
            RuntimeError, match=r"train: the cache of datasets must be a folder that can be written to, got '.*file/clm"
        ),
        with_files(Data(train=ADDRESS)),
    ):
        pass
