"""The service over HTTP: what it answers, what it refuses, and that one request never spoils another's."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from fake_tasks import FakeTasks

httpx = pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")

from clm_kernels.serving.service.app import make_app  # noqa: E402
from clm_kernels.serving.service.limits import Limits  # noqa: E402


@asynccontextmanager
async def client(tasks=None, token="", **limits):
    """A client of the application, which has begun; it ends with the block."""
    app = make_app(tasks or FakeTasks(), Limits(**limits), token)
    inner = app
    while not hasattr(inner, "router"):
        inner = inner.app
    async with inner.router.lifespan_context(inner):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as made:
            yield made


def asked(content, path="/classify", **given):
    async def run():
        async with client(**given) as one:
            data = content if isinstance(content, bytes) else json.dumps(content)
            response = await one.post(path, content=data, headers={"Content-Type": "application/json"})
            return response.status_code, response.json()

    return asyncio.run(run())


def test_one_task_one_for_each_and_all():
    texts = ["my parcel", "hello"]
    status, found = asked({"texts": texts, "tasks": "topics"})
    assert status == 200
    assert found["results"][0] == {"task": "topics", "text": "my parcel", "label": "parcel", "probability": 0.9}
    _, found = asked({"texts": texts, "tasks": ["topics", "intents"]})
    assert [(one["task"], one["label"]) for one in found["results"]] == [("topics", "parcel"), ("intents", "odd")]
    _, found = asked({"texts": texts})
    assert [[one["task"] for one in each] for each in found["results"]] == [FakeTasks.names] * 2
    assert found["results"][1][1]["label"] == "other"


def test_the_next_best_labels_and_words():
    _, found = asked({"texts": ["a parcel"], "tasks": "topics", "top": 2})
    assert [one["label"] for one in found["results"][0]["best"]] == ["parcel", "other"]
    _, found = asked({"texts": [["Ann", "left"]], "tasks": "tags"})
    assert found["results"][0]["tags"] == ["B-name", "O"]


def test_the_words_that_carried_a_label():
    status, found = asked({"text": "my parcel now", "task": "topics"}, "/explain")
    assert status == 200 and found["label"] == "parcel" and "best" not in found
    assert [(one["word"], round(one["weight"], 6)) for one in found["words"]] == [("my", 0), ("parcel", 0.8), ("now", 0)]
    assert asked({"text": "parcel", "task": "topics"}, "/explain")[1]["words"] == [{"word": "parcel", "weight": 0.0}]
    assert "which tags words" in asked({"text": "Ann", "task": "tags"}, "/explain")[1]["error"]


class Marks(FakeTasks):
    names = [*FakeTasks.names, "marks"]


def test_the_words_of_each_of_several_labels():
    status, found = asked({"text": "my parcel now", "task": "marks"}, "/explain", tasks=Marks())
    assert (
        status == 200 and (found["labels"], found["probabilities"]) == (["parcel", "long"], [0.8, 0.6]) and "label" not in found
    )
    assert found["best"] == [{"label": "parcel", "probability": 0.8}, {"label": "long", "probability": 0.6}]
    rounded = {one["label"]: [round(word["weight"], 6) for word in one["words"]] for one in found["explained"]}
    assert rounded == {"parcel": [0, 0.6, 0], "long": [0.2, 0.2, 0.2]}
    _, none = asked({"text": "a b", "task": "marks"}, "/explain", tasks=Marks())
    assert none["labels"] == [] and [one["label"] for one in none["explained"]] == ["long"]  # the likeliest


def test_all_tasks_are_asked_for_more_labels_than_some_have():
    body = {"texts": ["my parcel now"], "top": 3}
    status, found = asked(body, tasks=Marks())
    assert status == 200 and [one["task"] for one in found["results"][0]] == Marks.names
    status, refused = asked(body | {"tasks": "topics"}, tasks=Marks())
    assert status == 422 and refused["error"] == "top must be at most 2, the number of labels of 'topics', got 3"
    assert asked(body | {"tasks": "marks"}, tasks=Marks())[0] == asked(body | {"tasks": "tags"}, tasks=Marks())[0] == 200


REFUSED = {
    "an unknown task": ({"texts": ["a"], "tasks": "colours"}, 422, "tasks must be among intents, topics, tags, got 'colours'"),
    "too few tasks": ({"texts": ["a", "b"], "tasks": ["topics"]}, 422, "one for each of the 2 texts, got 1"),
    "no text": ({"texts": []}, 422, "texts: List should have at least 1 item"),
    "an empty text": ({"texts": [""], "tasks": "topics"}, 422, "at least 1"),
    "no texts but a number": ({"texts": [3], "tasks": "topics"}, 422, "valid string"),
    "a long text": ({"texts": ["a" * 51], "tasks": "topics"}, 422, "at most 50 characters"),
    "many texts": ({"texts": ["a"] * 9, "tasks": "topics"}, 422, "at most 8 items"),
    "many texts times tasks": ({"texts": ["a"] * 3}, 422, "texts times tasks must be at most 8, got 9"),
    "another field": ({"texts": ["a"], "model": "x"}, 422, "model: Extra inputs are not permitted"),
    "no JSON": (b"{", 422, "JSON decode error"),
    "what the model refuses": ({"texts": ["spoilt"], "tasks": "topics"}, 422, "texts must be fresh"),
    "what breaks the model": ({"texts": ["broken"], "tasks": "topics"}, 500, "KeyError"),
    "a large body": (b" " * 5000, 413, "at most 4,000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_in_one_form(case):
    body, expected, words = REFUSED[case]
    status, found = asked(body, characters=50, texts=8, body=4000)
    assert status == expected and words in found["error"] and list(found) == ["error"]


def test_a_body_without_a_length_is_bounded_too():
    async def run():
        async def endless():
            for _ in range(1000):
                yield b" " * 1000

        async with client(body=4000) as one:
            return (await one.post("/classify", content=endless())).status_code

    assert asyncio.run(run()) == 413


def test_requests_at_once_share_batches_and_a_spoilt_one_spoils_no_other():
    tasks = FakeTasks(seconds=0.02)

    async def run():
        async with client(tasks, batch=64, wait=20) as one:
            bodies = [{"texts": [f"text {i}" + " more" * (i % 2)], "tasks": "intents"} for i in range(40)]
            bodies[7] = {"texts": ["spoilt"], "tasks": "intents"}
            return await asyncio.gather(*(one.post("/classify", json=body) for body in bodies))

    found = asyncio.run(run())
    assert [response.status_code for response in found] == [422 if i == 7 else 200 for i in range(40)]
    labels = [response.json()["results"][0]["label"] for i, response in enumerate(found) if i != 7]
    assert labels == [("even", "odd")[i % 2] for i in range(40) if i != 7]
    assert max(map(len, tasks.batches)) > 20


def test_a_full_queue_says_so_at_once():
    async def run():
        async with client(FakeTasks(seconds=0.2), batch=4, queue=8, texts=4, wait=0) as one:
            found = await asyncio.gather(*(one.post("/classify", json={"texts": ["a"] * 4, "tasks": "topics"}) for _ in range(8)))
            return [(response.status_code, response.headers.get("retry-after")) for response in found]

    found = asyncio.run(run())
    assert (503, "1") in found and (200, None) in found and len(set(found)) == 2


def test_an_answer_that_takes_too_long_is_given_up():
    status, found = asked({"texts": ["a"], "tasks": "topics"}, tasks=FakeTasks(seconds=0.3), seconds=0.05)
    assert status == 504 and "within 0.05 seconds" in found["error"]


def test_a_token_is_asked_for_where_one_is_set():
    async def run():
        async with client(token="secret") as one:
            body = {"texts": ["a"], "tasks": "topics"}
            wrong = [{}, {"Authorization": "Bearer secre"}, {"Authorization": "secret"}]
            refused = [(await one.post("/classify", json=body, headers=headers)).status_code for headers in wrong]
            right = await one.post("/classify", json=body, headers={"Authorization": "Bearer secret"})
            open_to_all = [(await one.get(path)).status_code for path in ("/", "/healthz")]
            return refused, right.status_code, open_to_all, (await one.get("/metrics")).status_code

    assert asyncio.run(run()) == ([401] * 3, 200, [200, 200], 401)


def test_health_and_counters():
    async def run():
        async with client() as one:
            await one.post("/classify", json={"texts": ["a", "b"], "tasks": "topics"})
            await one.post("/classify", json={"texts": []})
            await one.post("/classify", json={"texts": ["broken"], "tasks": "topics"})
            return (await one.get("/healthz")).json(), (await one.get("/metrics")).text

    health, counters = asyncio.run(run())
    assert health == {"status": "ok", "tasks": FakeTasks.names}
    for line in (
        'clm_requests_total{path="/classify",status="200"} 1.0', 'clm_requests_total{path="/classify",status="422"} 1.0',
        'clm_requests_total{path="/classify",status="500"} 1.0', "clm_request_seconds_count 3.0",
        'clm_texts_total{task="topics"} 2.0', "clm_waiting 0.0", "clm_tasks 3.0", "clm_batch_texts_count 2.0",
    ):  # fmt: skip
        assert line in counters, counters


def test_what_waits_is_answered_when_the_service_ends():
    tasks = FakeTasks(seconds=0.1)

    async def run():
        async with client(tasks, batch=1, wait=0) as one:
            posts = [asyncio.create_task(one.post("/classify", json={"texts": ["a"], "tasks": "topics"})) for _ in range(4)]
            while not tasks.batches:
                await asyncio.sleep(0.01)
            found = posts
        return [(await post).status_code for post in found]

    assert asyncio.run(run()) == [200] * 4


@pytest.mark.parametrize("limits", [{"batch": 0}, {"wait": -1}, {"texts": 10, "queue": 9}])
def test_limits_that_cannot_be(limits):
    with pytest.raises(ValueError, match=r"Limits: \w+ must be"):
        Limits(**limits)
