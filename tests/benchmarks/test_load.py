"""The load generator beside a server that errs, and the whole measurement in its short form."""

import asyncio
import json

import pytest
from tiny_task import save_model

from benchmarks import load

pytest.importorskip("fastapi", reason="fastapi is not installed")

BODY = b'{"results": [{"label": "a"}, {"label": "b"}]}'
SHORT = b'{"results": [{"label": "a"}]}'


def answer(status, body=BODY):
    return b"HTTP/1.1 %s\r\nContent-Type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


def asked(*answers):
    """What the generator counts, with one connection and a server that gives these answers, and then closes."""
    seen = []

    async def serve(reader, writer):
        for one in answers:
            head = await reader.readuntil(load.END)
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            seen.append(json.loads(await reader.readexactly(length)))
            writer.write(one[:20])
            await writer.drain()
            await asyncio.sleep(0.01)  # so that it comes in two parts
            writer.write(one[20:])
        await reader.readuntil(load.END)
        writer.close()

    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            bodies = load.requests(["one", "two", "three"], ["x", "y"], 2)
            return await load.load(server.sockets[0].getsockname()[1], bodies, 2, 1, 5.0)

    return asyncio.run(asyncio.wait_for(run(), 30)), seen


def test_answers_that_are_wrong_or_missing_are_counted():
    answers, seen = asked(answer(b"200 OK"), answer(b"503 Service Unavailable"), answer(b"200 OK", SHORT), answer(b"200 OK"))
    assert len(answers.seconds) == 4 and answers.wrong == 3  # the fifth request is never answered
    assert seen[:2] == [{"texts": ["one", "two"], "tasks": "x"}, {"texts": ["three", "three"], "tasks": "y"}]
    assert min(answers.seconds) >= 0.01 and answers.lasted >= sum(answers.seconds)


def test_the_measurement_on_a_tiny_model(tmp_path, capsys):
    from benchmarks import service

    base = save_model(tmp_path / "base")
    short = ["--seconds", "1", "--connections", "8", "--batch", "8", "--texts", "1", "3"]
    service.main(["--model", base, "--output", str(tmp_path), *short])
    stored = json.loads((tmp_path / "service.json").read_text())
    rows = {row["what"]: row for row in stored["rows"]}
    for each, many in ((1, "8 connections, 1 text a request"), (3, "8 connections, 3 texts a request")):
        beside = rows[f"{many}: texts a second beside the bare model's"]
        assert beside["requests"] > 8 and beside["measured"] > 0 and 1 <= beside["mean_batch"] <= 8
        assert beside["texts_a_second"] == pytest.approx(beside["requests"] * each / beside["seconds"])
        assert rows[f"{many}: errors of {beside['requests']:,} requests"]["met"]
        assert rows[f"{many}: latency p99, ms"]["measured"] >= rows[f"{many}: latency p50, ms"]["measured"] > 0
        assert rows[f"{many}: the service's processor time, ms a text"]["measured"] > 0
    assert stored["machine"]["processor"] and capsys.readouterr().out.startswith("| what | measured | reach |")
