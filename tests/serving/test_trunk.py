"""A trunk's answers beside those of each task's own classifier, and what it says of tasks that it cannot take."""

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_deltas import leave, random_delta
from tiny_runs import FAST, silent
from tiny_task import byte_tokenizer, save_model, sentences, tokenizer, write_data
from tiny_task import texts as made_texts

import clm_kernels as clm
from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.classifier import Classifier
from clm_kernels.finetune.models import load
from clm_kernels.finetune.tasks import TASKS as FINETUNED
from clm_kernels.serving.member import Member

TEXTS = [row["text"] for row in made_texts(12, 0)]
SMALL = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1, "vocab_size": 400}
MERGED = ("my refund", "the parcel")
TASKS = {
    "intents": {"kind": "dealt"},
    "two": {"kind": "rows", "labels": ["no", "yes"], "pooling": "max", "seed": 1},
    "many": {"kind": "columns", "labels": [f"label {i}" for i in range(17)], "template": "please {text} now", "seed": 2},
    "tags": {"kind": "blocks", "task": "token", "seed": 3},
    "native": {"kind": "elements", "pooling": "native", "seed": 4},
    "merged": {"kind": "rows", "merged": MERGED, "seed": 5},
    "head": {"lowest": float("inf"), "seed": 6},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("trunk") / "model", vocab_size=len(tokenizer()))  # so that new tokens need rows


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    where = tmp_path_factory.mktemp("tasks")
    return {name: leave(random_delta(base, **how), where / name) for name, how in TASKS.items()}


def alone(base, folder, given, **how):
    classifier = Classifier.load(base, folder / "delta.safetensors")
    return list(classifier.predict([text.split() if classifier.task == "token" else text for text in given], **how))


@pytest.fixture(scope="module")
def expected(base, folders):
    return {name: alone(base, folder, TEXTS) for name, folder in folders.items()}


def trunk_of(base, folders, names):
    made = clm.Trunk(base)
    for name in names:
        made.add(name, folders[name])
    return made


@pytest.fixture(scope="module")
def trunk(base, folders):
    return trunk_of(base, folders, TASKS)


@pytest.fixture
def small(base, folders):
    """One to be changed."""
    return trunk_of(base, folders, ("intents", "tags"))


def bits(trunk):
    return {name: weight.clone() for name, weight in trunk._base.weights.items()}


def same_bits(trunk, former):
    return all(torch.equal(weight, former[name]) for name, weight in trunk._base.weights.items())


def test_every_task_answers_as_it_does_alone(trunk, expected):
    former = bits(trunk)
    for name, own in expected.items():
        assert trunk.classify(TEXTS, name) == own
    every = trunk.classify(TEXTS, mix=False)
    assert every == [{name: own[i] for name, own in expected.items()} for i in range(len(TEXTS))]
    assert same_bits(trunk, former)
    different = {tuple(str(own[i]) for own in expected.values()) for i in range(len(TEXTS))}
    assert len({str(own) for own in expected.values()}) == len(expected) and len(different) == len(TEXTS)


def test_a_task_for_each_text(trunk, base, folders):
    names = [["intents", "tags", "two"][i % 3] for i in range(len(TEXTS))]
    found = trunk.classify(TEXTS, names, mix=False)
    for name in {*names}:
        places = [i for i, each in enumerate(names) if each == name]
        assert [found[i] for i in places] == alone(base, folders[name], [TEXTS[i] for i in places])


def test_one_text_small_batches_and_what_predict_takes(trunk, base, folders, expected):
    assert trunk.classify(TEXTS[0], "intents") == alone(base, folders["intents"], TEXTS[:1])[0]
    assert set(trunk.classify(TEXTS[0], mix=False)) == {*TASKS}
    assert trunk.classify(TEXTS, "many", batch_size=5, top=3) == alone(base, folders["many"], TEXTS, batch_size=5, top=3)
    assert trunk.classify([TEXTS[0].split()], "tags") == trunk.classify(TEXTS[:1], "tags")
    assert trunk.classify([], "intents") == [] == trunk.classify([])


@pytest.mark.parametrize(("family", "sides"), [("llama", "all"), ("gpt2", "1-1"), ("modernbert", "none")])
def test_other_families(family, sides, tmp_path):
    words = {"made": byte_tokenizer(), **SMALL} if family in ("llama", "gpt2") else {}
    model = save_model(tmp_path / "model", family, **words)
    trunk = clm.Trunk(model)
    tasks = {
        "last": {"pooling": "last" if words else "mean", "sides": sides},
        "plain": {"pooling": "max", "kind": "columns", "seed": 1},
        "tags": {"task": "token", "sides": sides, "kind": "rows", "seed": 2},
    }
    for name, how in tasks.items():
        trunk.add(name, leave(random_delta(model, **how), tmp_path / name))
    every = trunk.classify(TEXTS, mix=False)
    for name in tasks:
        assert [found[name] for found in every] == alone(model, tmp_path / name, TEXTS)


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_what_train_left(kind, tmp_path):
    data = write_data(tmp_path, sentences if kind == "token" else made_texts)
    model = save_model(tmp_path / "model", vocab_size=len(tokenizer()))
    more = {"template": "of {text}"} if kind == "sequence" else {"pooling": "auto"}
    config = TrainConfig(model=model, output=str(tmp_path / "out"), task=kind, **data, **FAST | {"epochs": 1} | more)
    train(config, silent)
    trunk = clm.Trunk(model)
    trunk.add("it", tmp_path / "out")
    classifier = Classifier.load(tmp_path / "out")
    given = [text.split() for text in TEXTS] if kind == "token" else TEXTS
    assert trunk.classify(given, "it") == list(classifier.predict(given))
    assert kind == "token" or classifier.calibration.temperature != 1


def _is_mapped(weight):
    """Whether it lies in a file of weights that is mapped into memory."""
    spans = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if ".safetensors" in line]
    return any(int(start, 16) <= weight.data_ptr() < int(end, 16) for start, end in spans)


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs Linux to tell which memory is a file's")
def test_memory_is_one_base_and_the_deltas(base, folders):
    names = ["intents", "merged", "head"]
    trunk = trunk_of(base, folders, names)
    memory = trunk.memory()
    shared = {id(weight) for weight in trunk._base.weights.values()}
    assert memory.base == sum(weight.nbytes for weight in trunk._base.weights.values())
    for name in names:
        held = {id(weight): weight for weight in trunk._members[name].classifier.model.parameters()}
        assert not any(_is_mapped(weight) for each, weight in held.items() if each not in shared)  # which keeps a whole file
        own = sum(weight.nbytes for each, weight in held.items() if each not in shared)
        delta = clm.Delta.load(folders[name] / "delta.safetensors")
        chosen = sum(delta.values[each].nbytes + delta.selection[each].index.nbytes for each in delta.selection)
        assert own == sum(tensor.nbytes for tensor in delta.whole.values()) and memory.tasks[name] == own + chosen
        assert name != "head" or (chosen == 0 and {*delta.whole} == {"classifier.weight", "classifier.bias"})
    assert memory.total == memory.base + sum(memory.tasks.values())
    trunk.classify(TEXTS[:2], ["intents", "head"], mix=True)  # makes products of the entries
    assert trunk.memory().tasks["intents"] > memory.tasks["intents"] and trunk.memory().tasks["head"] == memory.tasks["head"]


def test_tokenizers_are_shared(trunk):
    tokenizers = {name: id(member.classifier.tokenizer) for name, member in trunk._members.items()}
    assert len({*tokenizers.values()}) == 2 and tokenizers["merged"] not in {
        tokenizers[name] for name in TASKS if name != "merged"
    }


def refused(trunk, expected, call, *args, **kwargs):
    """The call raises, and the trunk is as before."""
    tasks, former = trunk.tasks, bits(trunk)
    with pytest.raises(ValueError, match=expected):
        call(*args, **kwargs)
    assert trunk.tasks == tasks and same_bits(trunk, former)


def test_what_is_asked_wrongly(trunk):
    refused(trunk, r"Trunk.classify: tasks must be of 'intents', .*, got 'spam'", trunk.classify, TEXTS, "spam")
    refused(
        trunk, r"Trunk.classify: tasks must be a name for each of 12 texts, got 2 names", trunk.classify, TEXTS, ["two", "two"]
    )
    refused(trunk, r"tasks must be a name, a list of names, or None, got 7", trunk.classify, TEXTS, 7)
    refused(trunk, r"texts\[1\] for 'intents' must be a text that is not empty, got 5", trunk.classify, ["a", 5], "intents")
    refused(trunk, r"texts\[0\] for 'tags' must be a list of words or a text", trunk.classify, [[""]], "tags")
    refused(trunk, r"texts\[0\] for 'two' must be a text that is not empty, got ' '", trunk.classify, " ", "two")
    refused(trunk, r"Trunk.classify: texts must be a text or a list of texts, got None", trunk.classify, None, "two")
    refused(trunk, r"predict: top must be a whole number from 1 to 2", trunk.classify, TEXTS, "two", top=3)
    refused(trunk, r"Trunk.drop: name must be one of 'intents', .*, got 'spam'", trunk.drop, "spam")


def test_what_cannot_be_added(base, folders, tmp_path):
    trunk = trunk_of(base, folders, ["two"])
    add = trunk.add
    refused(
        trunk, r"the task 'new' must be a folder with delta.safetensors, .* got '.*nowhere'", add, "new", tmp_path / "nowhere"
    )
    damaged = tmp_path / "damaged.safetensors"
    whole = (folders["two"] / "delta.safetensors").read_bytes()
    for broken in (whole[:-40], whole[:-40] + bytes(40)):
        damaged.write_bytes(broken)
        refused(trunk, "Delta.load", add, "two", damaged)
    refused(
        trunk, r"the labels of 'two' must be those of the task that it replaces, 'no' or 'yes'", add, "two", folders["intents"]
    )
    other = save_model(tmp_path / "other", seed=9, vocab_size=len(tokenizer()))
    refused(trunk, r"the delta of 'new' must be one of the base .*, whose weights differ", add, "new", random_delta(other))
    head = random_delta(other, lowest=float("inf"))
    refused(trunk, r"the delta of 'new' must be one of the base .*, whose weights differ", add, "new", head)
    gone = random_delta(other)
    half = random_delta(base)
    half.recipe = replace(half.recipe, dtype="bfloat16")
    refused(trunk, r"the delta of 'new' must be one in float32, as the trunk is, got one in bfloat16", add, "new", half)
    strange = random_delta(base)
    strange.recipe = replace(strange.recipe, model="x" * 4000)  # no folder has such a name
    add("strange", strange)
    shutil.rmtree(other)
    refused(trunk, r"does not hold the values of the base this delta was made on", add, "new", gone)
    with pytest.warns(UserWarning, match="nothing tells whether the base of 'new' was this one"):
        add("new", head)
    refused(trunk, r"Trunk.add: name must be a text that is not empty, got ''", add, "", folders["two"])
    shutil.copytree(base, tmp_path / "copy")  # the same weights elsewhere are the same base
    add("copied", random_delta(tmp_path / "copy"))


@pytest.mark.filterwarnings("error::UserWarning")  # as where nothing tells the base
def test_a_delta_of_a_head_alone_knows_its_base_though_that_is_gone(base, tmp_path):
    other = save_model(tmp_path / "other", seed=9, vocab_size=len(tokenizer()))
    model = load(other, FINETUNED["sequence"], ["no", "yes"], "mean").model
    delta = clm.patch(model, clm.Selection()).delta(recipe=clm.Recipe("sequence", "gone", pooling="mean"))
    trunk = clm.Trunk(base)
    told = rf"does not hold the values of the base this delta was made on: 'gone' with the fingerprint {delta.base[:12]}, got"
    with pytest.raises(ValueError, match=told):
        trunk.add("new", delta)
    assert not trunk.tasks
    right = clm.Trunk(other)
    right.add("new", delta)
    assert right.tasks == {"new": ["no", "yes"]}


def test_a_base_that_changed_on_disk_is_refused(folders, base, tmp_path):
    shutil.copytree(base, tmp_path / "model")
    trunk = clm.Trunk(tmp_path / "model")
    trunk.add("two", folders["two"])
    save_model(tmp_path / "model", seed=8, vocab_size=len(tokenizer()))
    head = random_delta(tmp_path / "model", lowest=float("inf"))
    refused(trunk, r"of 'head' must be that of the base .* but for what the delta changed", trunk.add, "head", head)


def test_an_error_in_a_forward_leaves_the_trunk_as_it_was(trunk, expected, monkeypatch):
    former = bits(trunk)
    monkeypatch.setattr(trunk._members["two"].classifier.model, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trunk.classify(TEXTS)
    assert same_bits(trunk, former) and trunk.classify(TEXTS, "merged") == expected["merged"]


def test_a_task_is_replaced_and_dropped(small, base, folders, expected, tmp_path):
    other = leave(random_delta(base, "columns", seed=11), tmp_path / "other")
    small.add("intents", other)
    assert small.classify(TEXTS, "intents") == alone(base, other, TEXTS) != expected["intents"]
    assert small.classify(TEXTS, "tags") == expected["tags"]
    small.drop("intents")
    refused(small, "tasks must be of", small.classify, TEXTS, "intents")
    assert "intents" not in small.tasks and "intents" not in small.memory().tasks


def test_no_request_is_lost_while_tasks_come_and_go(small, base, folders, expected, tmp_path):
    """Each answer is whole, and of the delta before or of the one after."""
    other = leave(random_delta(base, seed=11), tmp_path / "other")
    allowed = {"intents": (expected["intents"], alone(base, other, TEXTS)), "tags": (expected["tags"],)}
    found, failed, over = [], [], threading.Event()

    def ask(name):
        while not over.is_set() or not any(each == name for each, _ in found):
            try:
                found.append((name, small.classify(TEXTS, name)))
            except Exception as error:
                failed.append(error)

    asking = [threading.Thread(target=ask, args=(name,)) for name in allowed]
    for thread in asking:
        thread.start()
    try:
        for i in range(3):
            small.add("intents", other if i % 2 == 0 else folders["intents"])
            small.add("new", folders["two"])
            small.drop("new")
    finally:
        over.set()
        for thread in asking:
            thread.join(60)
    assert not failed and len(found) >= 2
    assert all(answer in allowed[name] for name, answer in found)


def test_members_share_what_they_did_not_train(trunk):
    member = trunk._members["head"]
    assert isinstance(member, Member) and member.begins == len(member.layers) and not member.values
    assert trunk._members["intents"].begins == 0
