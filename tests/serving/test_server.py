"""The service as a process: many connections at once, an end that loses nothing, and its page in a browser."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from places import ROOT

httpx = pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")

CONNECTIONS, EACH = 200, 4
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def served(seconds=0.0, *script):
    """The process and its address; it ends by SIGTERM, without an error."""
    helpers = ROOT / "tests" / "helpers"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(helpers)])}
    command = [sys.executable, str(helpers / "fake_server.py"), str(seconds), *script]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = f"http://127.0.0.1:{int(process.stdout.readline())}"
            for _ in range(100):
                with httpx.Client(timeout=10) as client:
                    if client.get(f"{address}/healthz").status_code == 200:
                        break
            yield process, address
        finally:
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGTERM) and "Traceback" not in told, told


def test_two_hundred_connections_are_all_answered_with_their_own_texts():
    async def one(client, address, number):
        right = []
        for i in range(EACH):
            text = f"text {number} {i}" + " more" * (number % 2)
            response = await client.post(f"{address}/classify", json={"texts": [text], "tasks": "intents"})
            (found,) = response.json()["results"]
            right.append(response.status_code == 200 and found["text"] == text and found["label"] == ("odd", "even")[number % 2])
        return all(right)

    async def run(address):
        limits = httpx.Limits(max_connections=CONNECTIONS)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            found = await asyncio.gather(*(one(client, address, number) for number in range(CONNECTIONS)))
            return found, (await client.get(f"{address}/metrics")).text

    with served(0.02) as (_, address):
        found, counters = asyncio.run(run(address))
    assert found == [True] * CONNECTIONS
    assert f'clm_requests_total{{path="/classify",status="200"}} {CONNECTIONS * EACH}.0' in counters
    batches = int(float(next(line.split()[1] for line in counters.splitlines() if line.startswith("clm_batch_texts_count"))))
    assert batches < CONNECTIONS * EACH / 2  # what came at once went together


def test_what_was_asked_before_sigterm_is_answered():
    async def run(process, address):
        async with httpx.AsyncClient(timeout=30) as client:
            body = {"texts": ["a"], "tasks": "topics"}
            posts = [asyncio.create_task(client.post(f"{address}/classify", json=body)) for _ in range(8)]
            await asyncio.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            return [(await post).status_code for post in posts]

    with served(0.6) as (process, address):
        assert asyncio.run(run(process, address)) == [200] * 8


PILOT = """
addEventListener("load", () => setTimeout(() => {
  document.getElementById("task").value = "topics";
  document.getElementById("text").value = "my <b>parcel</b> now";
  document.getElementById("form").requestSubmit();
}, 500));
"""


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium")
def test_the_page_shows_label_and_words_in_a_browser():
    """Its form is filled in and sent as soon as the tasks are known, and the DOM read afterwards."""
    with served(0.0, PILOT) as (_, address):
        command = [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=8000",
            "--dump-dom",
            f"{address}/",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    answer = done.stdout.partition('id="answer"')[2].partition("</div>")[0]
    assert "90.0 %" in answer and "parcel</b>" in answer, done.stdout[-1500:] + done.stderr[-500:]
    assert answer.count('class="word') == 3 and "&lt;b&gt;parcel&lt;/b&gt;" in answer  # words are text, never HTML
