"""`--overwrite` takes away what a run has left, and nothing else."""

import json
import shutil
from dataclasses import replace

import pytest
from interruption import stop
from tiny_runs import silent
from tiny_task import save_model, write_data

from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.many.tasks import train_tasks
from clm_kernels.finetune.outputs import check_output

FOREIGN = (
    "notes.txt", "tokenizer_notes.md", "tokenizer/mine.txt", "vocabulary.csv", "vocab_list.json", "model.py", "model_old.safetensors.bak",
    "merges.txt.orig", ".writing-thesis/chapter.tex", "config.json.bak", "checkpoints/runs/events.log", "checkpoints/checkpoint-best/w",
    "checkpoints/notes.txt", "model.safetensors/in a folder.txt", ".run.json.swp", "nested/run.json", "nested/checkpoints/checkpoint-1/x",
    "README.md", "merges.txt", "vocab.json", "model.safetensors.index.json", "tokenizer.model", "trials.csv", "tasks.json", "clm_pooled.py",
    "chat_template.jinja", "evaluation-mine/errors.csv", "evaluation-b/evaluation.json", "seed-mine/run.json", "seed-mine/README.md",
)  # fmt: skip


@pytest.mark.parametrize("finished", [True, False])
def test_foreign_files_stay(base, tmp_path, finished):
    output, outside = tmp_path / "o", tmp_path / "outside"
    config = replace(base, select="random", output=str(output), keep_checkpoints=True)
    train(config, silent) if finished else stop(config, 14)
    left = {path.relative_to(output) for path in output.rglob("*") if path.is_file()}
    for name in FOREIGN:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(name)
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "file").write_text("outside")
    (output / "checkpoints" / "checkpoint-99").symlink_to(outside, target_is_directory=True)
    (output / "vocab.txt").symlink_to(outside / "deep" / "file")
    (output / ".writing-abcdefgh").symlink_to(outside, target_is_directory=True)
    stop(replace(config, overwrite=True, keep_checkpoints=False), 1, times=2)  # before it leaves anything
    assert {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()} == {*FOREIGN, "vocab.txt"}
    assert all((output / name).read_text() == name for name in FOREIGN)
    assert (outside / "deep" / "file").read_text() == "outside"
    assert len(left) > 10


def record(output, **changes):
    told = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps({name: value for name, value in (told | changes).items() if value is not None}))
    return told


@pytest.mark.parametrize(
    "options",
    [
        {"select": "fisher", "kind": "columns", "energy": "0.9"},
        {"select": "tokens"},
        {"method": "full", "pooling": "max"},
        {"method": "lora", "epochs": 2},
        {"seeds": 2, "select": "random"},
    ],
    ids=str,
)
def test_a_record_names_all_that_a_run_writes_and_it_goes(base, tmp_path, options):
    output = tmp_path / "o"
    given = {"model": base.data.model, "train": base.data.train, "epochs": 1, "batch_size": 8, "output": str(output)}
    train(TrainConfig(**given | options), silent)
    for folder in (output, *output.glob("seed-*")):
        files = {path.name for path in folder.iterdir() if path.is_file()}
        assert files <= set(record(folder)["writes"]) and len(files) > 5
    assert record(output).get("folders", []) == [path.name for path in sorted(output.glob("seed-*"))]
    (output / "mine.txt").write_text("mine")
    stop(TrainConfig(**given, overwrite=True), 1, times=2)
    assert [path.name for path in output.iterdir()] == ["mine.txt"]


def test_a_file_of_others_is_refused_where_it_would_be_written_over(base, tmp_path):
    output, given = tmp_path / "o", {"model": base.data.model, "train": base.data.train, "batch_size": 8}
    stop(TrainConfig(**given, select="random", output=str(output)), 8)
    (output / "README.md").write_text("mine")
    (output / "selection.png").write_text("mine")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    for name, options in {"README.md": {"method": "lora"}, "selection.png": {"select": "fisher", "per": "weight"}}.items():
        with pytest.raises(
            ValueError, match=rf"^train: output must be a folder without what .* got '.*' with '{name}'; move it$"
        ):
            train(TrainConfig(**given, **options, output=str(output), overwrite=True), silent)
    with pytest.raises(ValueError, match=r"with 'README.md'; move it$"):
        train(TrainConfig(**given, seeds=2, output=str(output), overwrite=True), silent)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_of_an_older_run_the_names_tell(base, tmp_path):
    output, config = tmp_path / "o", replace(base, select="random", output=str(tmp_path / "o"))
    stop(config, 8)
    record(output, writes=None)
    (output / "merges.txt").write_text("an older version's")
    stop(replace(config, overwrite=True), 1, times=2)
    assert not any(output.iterdir())


@pytest.mark.parametrize("told", ["everything", ["*", "../mine", "/etc/passwd", "notes.txt", 7]], ids=str)
def test_a_forged_record_names_nothing_else(base, tmp_path, told):
    output, config = tmp_path / "o", replace(base, select="random", output=str(tmp_path / "o"))
    stop(config, 8)
    record(output, writes=told, folders=["*", "..", "../o/nested", 7])
    for path in (tmp_path / "mine", output / "notes.txt"):
        path.write_text("mine")
    with pytest.raises(ValueError, match=r"with 'run.yaml'; move it"):
        train(replace(config, overwrite=True), silent)
    assert (tmp_path / "mine").exists() and (output / "notes.txt").exists()


def test_half_written_files_go(base, tmp_path):
    output = tmp_path / "o"
    config = replace(base, select="random", output=str(output))
    stop(config, 8)
    (output / ".delta.safetensors.abcd1234").write_text("half")
    (output / ".writing-abcd1234").mkdir()
    (output / ".writing-abcd1234" / "delta.safetensors").write_text("half")
    (output / "checkpoints" / "checkpoint-99").mkdir()
    (output / "checkpoints" / "checkpoint-99" / "model.safetensors").write_text("half")
    stop(replace(config, overwrite=True), 1, times=2)
    assert not output.exists() or not any(output.iterdir())


def test_what_a_killed_write_left_is_no_foreign_file(tmp_path):
    config = TrainConfig(model="m", train="t", output=str(tmp_path))
    for name in (".run.json.abcd1234", "..lock.json.abcd1234", ".lock"):
        (tmp_path / name).write_text("{")
    check_output(config, print)
    (tmp_path / ".run.json.theirs").write_text("{")
    with pytest.raises(ValueError, match="must be a new or empty folder"):
        check_output(config, print)


def test_what_the_run_reads_may_not_lie_in_its_folder(base, tmp_path):
    """The model of a finished run, trained on in its place, would be gone before it is read; and so would data there."""
    output, link = tmp_path / "o", tmp_path / "link"
    config = replace(base, select="random", output=str(output))
    train(config, silent)
    save_model(output / "model")
    files = write_data(output)
    shutil.copy(output / "selection.safetensors", output / "mine.safetensors")
    link.symlink_to(output, target_is_directory=True)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    inside = {"model": str(output), "selection": str(output / "mine.safetensors"), **files}
    for option, path in [
        *inside.items(),
        ("model", str(output / "model")),
        ("model", str(link)),
        ("train", str(link / "train.jsonl")),
    ]:
        with pytest.raises(ValueError, match=rf"^train: {option} must be outside of the output folder '.*', got '{path}'$"):
            train(replace(config, overwrite=True, **{option: path}), silent)
    with pytest.raises(ValueError, match=r"^train: model must be outside of the output folder"):
        train(replace(config, overwrite=True, seeds=2, model=str(output)), silent)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_nor_in_the_folder_of_several_tasks(base, tmp_path):
    common = TrainConfig(model=base.data.model, epochs=1, batch_size=8, select="random", output=str(tmp_path / "o"))
    train_tasks(common, {"a": {"train": base.data.train}}, silent)
    mine = shutil.copy(base.data.train, tmp_path / "o" / "mine.jsonl")
    with pytest.raises(ValueError, match=r"^train: train of 'a' must be outside of the output folder"):
        train_tasks(common.replace(overwrite=True), {"a": {"train": str(mine)}}, silent)
    assert (tmp_path / "o" / "tasks.json").is_file() and (tmp_path / "o" / "a" / "report.json").is_file()


def test_checkpoints_that_are_a_link(base, tmp_path):
    """Of a link the link goes: what it leads to is not in the run's folder, and no run goes on from there."""
    output, outside = tmp_path / "o", tmp_path / "outside"
    config = replace(base, select="random", output=str(output))
    stop(config, 8)
    shutil.copytree(output / "checkpoints", outside)
    (outside / "checkpoint-1").mkdir()
    (outside / "checkpoint-1" / "precious").write_text("x")
    shutil.rmtree(output / "checkpoints")
    (output / "checkpoints").symlink_to(outside, target_is_directory=True)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"without one \(checkpoints is a link, which is not followed\)"):
        train(TrainConfig(output=str(output), resume=True), silent)
    stop(replace(config, overwrite=True), 1, times=2)
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
    assert not any(output.iterdir())
