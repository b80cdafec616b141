"""The service with a real trunk: what it answers is what each task's classifier says, and the program serves it."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest
from places import ROOT
from random_deltas import leave, random_delta
from tiny_task import save_model, texts

import clm_kernels as clm

httpx = pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")

TEXTS = [row["text"] for row in texts(6, 0)]
TASKS = {
    "intents": {"labels": ["a", "b", "c"]},
    "tags": {"task": "token", "seed": 1},
    "two": {"labels": ["no", "yes"], "seed": 2},
    "marks": {"task": "multilabel", "labels": ["a", "b", "c"], "seed": 3},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, and the folders of its tasks."""
    folder = tmp_path_factory.mktemp("served")
    base = save_model(folder / "base")
    return base, {name: leave(random_delta(base, **how), folder / name) for name, how in TASKS.items()}


@pytest.fixture(scope="module")
def served(made):
    from clm_kernels.serving.service.served import Served

    trunk = clm.Trunk(made[0])
    for name, folder in made[1].items():
        trunk.add(name, folder)
    return Served(trunk)


def test_texts_of_taggers_and_of_others_keep_their_places(served):
    names = ["tags", "intents", "two", "tags", "two", "intents"]
    found = served.classify(TEXTS, names, top=2)
    for text, name, one in zip(TEXTS, names, found, strict=True):
        alone = served.trunk.classify([text], name, top=1 if name == "tags" else 2)[0]
        assert one.label == alone.label and one.text == alone.text
        told = served.described(name, one)
        if name == "tags":
            assert told["tokens"] == text.split() and len(told["tags"]) == len(told["probabilities"]) == len(told["tokens"])
        else:
            assert told["label"] in served.labels(name) and len(told["best"]) == 2
            assert told["probability"] == pytest.approx(alone.probability, rel=1e-5)


def test_several_labels_have_the_fields_of_predict_and_every_share(served, made):
    alone = clm.Classifier.load(made[0], made[1]["marks"] / "delta.safetensors")
    shares = alone.predict_proba(TEXTS)
    for one, text, row in zip(served.classify(TEXTS, ["marks"] * 6, top=3), TEXTS, shares, strict=True):
        expected = alone.predict(text)
        assert served.described("marks", one) == {
            "text": text,
            "labels": expected.label,
            "probabilities": pytest.approx(expected.probability),
        }
        assert served.shares("marks", one) == pytest.approx(dict(zip(alone.label_names, row.tolist())), rel=1e-4)


def test_a_task_with_fewer_labels_gives_all_that_it_has(served):
    found = served.classify(TEXTS[:3], ["two", "intents", "marks"], top=3)
    assert [len(getattr(one, "best", ())) for one in found] == [2, 3, 0]
    assert served.shares("intents", found[1]) == dict(found[1].best)


def test_one_text_that_is_none_spoils_no_other(served):
    from clm_kernels.serving.service.batching import Batcher
    from clm_kernels.serving.service.limits import Limits

    async def run():
        batcher = Batcher(served.classify, Limits(wait=50))
        running = asyncio.create_task(batcher.run())
        asked = [batcher.ask([text], ["intents"]) for text in (TEXTS[0], " ", TEXTS[1])]
        found = await asyncio.gather(*asked, return_exceptions=True)
        batcher.close()
        await running
        return found

    first, spoilt, last = asyncio.run(run())
    assert isinstance(spoilt, ValueError) and [first[0].text, last[0].text] == TEXTS[:2]


def test_the_program_serves_what_it_is_given(made):
    base, folders = made
    tasks = [part for name, folder in folders.items() for part in ("--task", f"{name}={folder}")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CLM_KERNELS_TOKEN": "secret"}
    command = [sys.executable, "-m", "clm_kernels", "serve", "--model", str(base), *tasks, "--port", "0", "--quiet"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = iter(process.stdout.readline, "")
            address = next(line.split()[-1] for line in lines if line.startswith("serving at "))
            with httpx.Client(base_url=address, timeout=30, headers={"Authorization": "Bearer secret"}) as client:
                assert client.get("/healthz").json()["tasks"] == list(TASKS)
                found = client.post("/classify", json={"texts": TEXTS[:2]}).json()["results"]
                assert [[one["task"] for one in each] for each in found] == [list(TASKS)] * 2
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--task", "intents"], "task must be NAME=FOLDER"),
        (["--task", "a=b", "--task", "a=c"], "got 'a' twice"),
        (["--task", "a=b", "--host", "0.0.0.0"], "CLM_KERNELS_TOKEN set"),
    ],
)
def test_what_it_does_not_serve(made, more, words):
    from typer.testing import CliRunner

    from clm_kernels.cli import app

    result = CliRunner().invoke(app, ["serve", "--model", str(made[0]), *more], env={"CLM_KERNELS_TOKEN": ""})
    assert result.exit_code == 2 and words in result.stderr
