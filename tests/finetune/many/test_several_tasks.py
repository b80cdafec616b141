"""Several tasks in one command: each is what its run alone leaves; the base is read once; one that fails stops no other."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
from command_line import run
from interruption import press_ctrl_c
from safetensors import safe_open
from tiny_runs import FAST, assert_same, silent, trained_tensors
from tiny_task import save_model, sentences, write_data, write_jsonl
from transformers import modeling_utils

from clm_kernels import Trunk, train_tasks
from clm_kernels.finetune import Report, TrainConfig, train
from clm_kernels.finetune.artifacts import RUN
from clm_kernels.finetune.many import tasks as many_tasks
from clm_kernels.finetune.task_files import by_key

OPTIONS = {**FAST, "epochs": 1, "layers": "upper half", "replay": True}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The options of all tasks, and three: texts, the same texts with other labels, and tags."""
    folder = tmp_path_factory.mktemp("given")
    texts = write_data(folder)
    for part, file in texts.items():
        rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
        write_jsonl(folder / f"{part}-long.jsonl", [{"text": row["text"], "label": int(len(row["text"]) > 18)} for row in rows])
    (folder / "tags").mkdir()
    tags = write_data(folder / "tags", sentences)
    tasks = {"topics": texts, "lengths": {part: str(folder / f"{part}-long.jsonl") for part in texts}, "spans": tags}
    return TrainConfig(model=save_model(folder / "model"), **OPTIONS), tasks


@pytest.fixture(scope="module")
def several(given, tmp_path_factory):
    config, tasks = given
    config, said = config.replace(output=str(tmp_path_factory.mktemp("several") / "out")), []
    with pytest.MonkeyPatch.context() as context:
        reads = counted(context)
        return config, train_tasks(config, tasks, said.append), said, reads


def counted(context):
    """The files of weights that are read from the disk from now on, a Trainer's checkpoints aside."""
    reads = []

    def counting(original):
        def read(path, *rest, **named):
            if "checkpoint-" not in str(path):
                reads.append(path)
            return original(path, *rest, **named)

        return read

    for module, name in ((safetensors.torch, "load_file"), (modeling_utils, "safe_open")):
        context.setattr(module, name, counting(getattr(module, name)))
    return reads


def assert_same_folder(one, other):
    """All files of the same names; what was trained, measured and told are the same bits."""
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    assert_same(trained_tensors(one), trained_tensors(other))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    for path in one.glob("*.safetensors"):
        with safe_open(path, "pt") as ours, safe_open(other / path.name, "pt") as theirs:
            assert ours.metadata() == theirs.metadata()
            assert_same(*({name: file.get_tensor(name) for name in file.keys()} for file in (ours, theirs)))
    told, alone = (Report.load(folder / "report.json") for folder in (one, other))
    assert (told.history, told.best, told.test, told.selection) == (alone.history, alone.best, alone.test, alone.selection)


@pytest.mark.parametrize("name", ["lengths", "spans"])
def test_each_is_what_its_run_alone_leaves(given, several, tmp_path, name):
    config, tasks = given
    train(config.replace(**tasks[name], output=str(tmp_path / name)), silent)
    assert_same_folder(Path(several[0].run.output) / name, tmp_path / name)


def test_the_base_is_read_once_and_the_same_texts_run_once(several):
    _, trained, said, reads = several
    assert len(reads) == 1 and list(trained.reports) == ["topics", "lengths", "spans"] and not trained.failed
    replayed = [line.endswith("as the task before gave it") for line in said if line.startswith("replaying")]
    assert replayed == [False, True, False]
    assert [line for line in said if line.startswith("task ")] == [
        "task topics, 1 of 3",
        "task lengths, 2 of 3",
        "task spans, 3 of 3",
    ]


def test_what_stands_beside_the_tasks(several):
    config, trained, *_ = several
    output = Path(config.run.output)
    assert {path.name for path in output.iterdir()} == {"topics", "lengths", "spans", "run.json", "tasks.json"}
    table = json.loads((output / "tasks.json").read_text())
    assert table == trained.table() and table["failed"] == {}
    assert table["tasks"]["spans"]["test"] == trained.reports["spans"].test and table["tasks"]["spans"]["task"] == "token"


def test_a_trunk_takes_them(several):
    trunk = Trunk(several[0].data.model)
    for name in ("topics", "spans"):
        trunk.add(name, Path(several[0].run.output) / name)
    (found,) = trunk.classify(["anna lives in rome"])
    assert found["topics"].label in ("access", "billing", "delivery") and len(found["spans"].label) == 4


def test_methods_that_change_all_of_the_base_leave_the_next_as_it_was(given, tmp_path):
    """Among them those that write into the weights themselves: full trains all, lora folds its products in."""
    config, tasks = given
    plain = {"epochs": 0.2, "batch_size": 8, "learning_rate": 1e-2, "model": config.data.model}
    texts = tasks["topics"]
    each = {"full": {"method": "full"} | texts, "lora": {"method": "lora"} | texts, "head": {"method": "head"} | texts}
    pytest.importorskip("peft", reason="peft is not installed")
    train_tasks(TrainConfig(**plain, output=str(tmp_path / "out")), each, silent)
    train(TrainConfig(**plain, **each["head"], output=str(tmp_path / "head")), silent)
    assert_same_folder(tmp_path / "out" / "head", tmp_path / "head")


def test_one_that_fails_is_told_and_the_others_go_on_and_resume_trains_it(given, several, tmp_path, monkeypatch):
    config, tasks = given
    config, output = config.replace(output=str(tmp_path / "out")), tmp_path / "out"

    def broken(run, say, shared):
        if Path(run.run.output).name == "lengths":
            raise RuntimeError("no memory left")
        return train(run, say, shared)

    two, said = {name: tasks[name] for name in ("lengths", "spans")}, []
    with monkeypatch.context() as context:
        context.setattr(many_tasks, "train", broken)
        trained = train_tasks(config, two, said.append)
    assert list(trained.reports) == ["spans"] and str(trained.failed["lengths"]) == "no memory left"
    assert "task lengths failed: no memory left" in said and not (output / "lengths").exists()
    assert json.loads((output / "tasks.json").read_text())["failed"] == {"lengths": "no memory left"}
    made = (output / "spans" / "delta.safetensors").stat().st_mtime_ns
    shown = run("train", "--resume", "--output", output, "--json")
    assert shown.exit_code == 0 and json.loads(shown.stdout)["tasks"].keys() == two.keys()
    assert (output / "spans" / "delta.safetensors").stat().st_mtime_ns == made
    assert_same(trained_tensors(output / "lengths"), trained_tensors(Path(several[0].run.output) / "lengths"))
    with pytest.raises(ValueError, match="which is finished"):
        train_tasks(TrainConfig(output=str(output), resume=True), say=silent)
    with pytest.raises(ValueError, match=r"^train: output must be a new or empty folder"):
        train_tasks(config, two, silent)


def test_a_break_and_a_resumption_change_nothing(given, several, tmp_path, monkeypatch):
    """In the second task; the first is not trained again."""
    config, tasks = given
    two, output = {name: tasks[name] for name in ("topics", "spans")}, tmp_path / "out"
    with monkeypatch.context() as context:
        press_ctrl_c(context, 8)
        with pytest.raises(KeyboardInterrupt):
            train_tasks(config.replace(output=str(output)), two, silent)
    made = (output / "topics" / "delta.safetensors").stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"^train: density must be 0.1 as in the run to resume"):
        train_tasks(TrainConfig(output=str(output), resume=True, density=0.3), say=silent)
    train_tasks(TrainConfig(output=str(output), resume=True), say=silent)
    assert (output / "topics" / "delta.safetensors").stat().st_mtime_ns == made
    assert_same(trained_tensors(output / "spans"), trained_tensors(Path(several[0].run.output) / "spans"))


def test_overwriting_takes_the_tasks_away_and_nothing_else(given, several, tmp_path):
    config, tasks = given
    output = tmp_path / "out"
    shutil.copytree(several[0].run.output, output)
    (output / "spans" / "notes.txt").write_text("mine")
    (output / "mine").mkdir()
    (output / "mine" / "report.json").write_text("mine")
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"text": "a", "label": "b"}])
    with pytest.raises(ValueError, match=r"^train: 'topics' must be a task that can be trained, got: "):
        train_tasks(config.replace(output=str(output), overwrite=True), {"topics": {"train": bad}}, silent)
    assert (output / "topics" / "delta.safetensors").is_file()  # what cannot be right takes nothing away
    train(config.replace(**tasks["topics"], epochs=0.2, output=str(output), overwrite=True), silent)
    folders = sorted(path.name for path in output.iterdir() if path.is_dir())
    assert folders == ["mine", "spans"] and [path.name for path in (output / "spans").iterdir()] == ["notes.txt"]
    assert not (output / "tasks.json").exists() and (output / "mine" / "report.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--train a=train.jsonl --train a=other.jsonl", "train must be given once for each task, got 'a' twice"),
        ("--train a=train.jsonl --train train.jsonl", "train must be NAME=FILE in all of --train"),
        ("--train a=train.jsonl --validation train.jsonl", "validation must be NAME=FILE in all of --train"),
        ("--train train.jsonl --train train.jsonl", "train must be one file, or NAME=FILE for each of several tasks"),
        ("--train ../x=train.jsonl", "a task's name must be a name for a folder"),
        ("--train checkpoints=train.jsonl", "a task's name must be a name for a folder"),
        ("--train seed-1=train.jsonl", "a task's name must be a name for a folder"),
        ("--train a=train.jsonl --train A=train.jsonl", "names of tasks must be different in more than capitals"),
        ("--train a=train.jsonl --train b=missing.jsonl", "'b' must be a task that can be trained"),
        ("--train =train.jsonl", "a file of a task must be NAME=FILE"),
        ("--train a=-", "train of 'a' must be a file, got standard input"),
        ("--train a=train.jsonl --test b=train.jsonl", "test must be of a task that has --train ('a'), got 'b'"),
        ("--train a=train.jsonl --set b.training.epochs=3", "set must be one of known keys"),
        ("--train a=train.jsonl --set a.run.output=b", "the options of 'a' must be of one task"),
        ("--train a=train.jsonl --resume", "output must be the folder of several tasks to resume"),
    ],
)
def test_what_cannot_be(given, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(given[1]["topics"]["train"], "train.jsonl")
    shown = run("train", "--model", given[0].data.model, "--output", "out", *arguments.split())
    assert shown.exit_code == 2 and told in shown.stderr, shown.stderr
    assert not Path("out").exists()


def test_under_torchrun(given, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"^train: tasks must be trained each by itself under torchrun"):
        train_tasks(given[0].replace(output=str(tmp_path / "o")), given[1], silent)


def test_the_command_with_seeds_and_settings_of_one_task(given, tmp_path, monkeypatch):
    """A file whose name has = is that file; settings reach their task alone; --seeds makes its runs in each task's folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(given[1]["topics"]["train"], "a=b.jsonl")
    same = ["train", "--model", given[0].data.model, "--output", "out", "--batch-size", 8, "--method", "head"]
    shown = run(*same, "--train", "a=b.jsonl", "--epochs", 0.2, "--seeds", 2, "--output", "plain")
    assert shown.exit_code == 0 and (tmp_path / "plain" / "seed-42").is_dir(), shown.stderr
    shown = run(
        *same, "--train", "x=a=b.jsonl", "--seeds", 2, "--set", "x.training.epochs=0.2", "--set", "training.epochs=7", "--quiet"
    )
    assert shown.exit_code == 0 and shown.stdout.startswith("x: validation accuracy"), shown.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"x", "run.json", "tasks.json"}
    assert_same(trained_tensors(tmp_path / "out" / "x"), trained_tensors(tmp_path / "plain"))
    assert json.loads((tmp_path / "out" / RUN).read_text())["tasks"] == {
        "x": {"train": str(tmp_path / "a=b.jsonl"), "epochs": 0.2}
    }


def test_the_table_tells_who_failed(several):
    from clm_kernels.cli import show

    trained = several[1]._replace(failed={"other": ValueError("no")})
    assert show.tasks(trained.table()).row_count == 4 and replace(trained.reports["topics"]).best_by == "accuracy"


def test_a_folder_that_another_run_left_is_no_result_of_this_one(given, tmp_path):
    config, tasks = given
    (tmp_path / "o" / "topics").mkdir(parents=True)
    (tmp_path / "o" / "topics" / "report.json").write_text("{}")
    record = many_tasks._record(config, {"lengths": tasks["lengths"]})
    (tmp_path / "o" / RUN).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"train: names of tasks must be of folders that are not yet in '.*', got 'topics'"):
        train_tasks(config.replace(output=str(tmp_path / "o"), overwrite=True), tasks, silent)


def test_a_task_on_a_hub_is_recorded_at_its_commit(monkeypatch):
    monkeypatch.setattr(many_tasks, "pinned", lambda path: f"{path}@abc")
    _, each = many_tasks._given(TrainConfig(output="o"), {"a": {"train": "hf://datasets/me/x"}})
    assert many_tasks._record(TrainConfig(), each)["tasks"] == {"a": {"train": "hf://datasets/me/x@abc"}}


def test_tasks_on_a_hub_go_on_at_their_commit(monkeypatch, tmp_path):
    begun = f"hf://datasets/me/x@{'a' * 40}"
    record = many_tasks._record(TrainConfig(model="m", output=str(tmp_path)), {"a": {"train": begun}, "b": {"train": "b.csv"}})
    (tmp_path / RUN).write_text(json.dumps(record))
    monkeypatch.setattr("huggingface_hub.HfApi", None)  # which is not asked
    said, config = [], TrainConfig(output=str(tmp_path), resume=True)
    _, each = many_tasks._recorded(config, {"a": {"train": "hf://datasets/me/x"}}, said.append)
    assert each["a"] == {"train": begun} and len(said) == 1
    other = f"hf://datasets/me/x@{'b' * 40}"
    for name, expected in (("a", begun), ("b", "b.csv")):
        with pytest.raises(ValueError, match=f"train: train must be '.*{expected}' as in the run to resume"):
            many_tasks._recorded(config, {name: {"train": other}}, silent)


def test_settings_of_tasks():
    tasks = {"a": {"train": "x"}, "a.b": {"train": "y"}}
    common, each = by_key(["a.b.training.epochs=3", "a.training.epochs=2", "training.patience=1"], tasks)
    assert common == ["training.patience=1"] and (each["a.b"]["epochs"], each["a"]["epochs"]) == (3, 2)
    with pytest.raises(ValueError, match=r"train: set must be NAME\.data.… for a file of one of several tasks"):
        by_key(["data.validation=v"], tasks)
