"""``clm-kernels serve``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..errors import require
from .errors import stderr
from .quiet import quiet
from .told import prints_its_essence

KEEP = 75  # seconds that an idle connection stays open: longer than a client keeps one, else it may be reused as it closes
TOKEN = "CLM_KERNELS_TOKEN"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@prints_its_essence
def serve(
    task: Annotated[list[str], typer.Option(help="NAME=FOLDER, an output of train; once for each task.", show_default=False)],
    model: Annotated[str, typer.Option(help="Base model of all tasks.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on; another than loopback wants a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    batch: Annotated[int, typer.Option(help="Texts that are classified together.", min=1)] = 64,
    wait: Annotated[float, typer.Option(help="Milliseconds that a text waits for others.", min=0)] = 3.0,
    queue: Annotated[int, typer.Option(help="Texts that may wait; 503 beyond.", min=1)] = 4096,
    texts: Annotated[int, typer.Option(help="Texts of one request.", min=1)] = 1024,
    characters: Annotated[int, typer.Option(help="Characters of one text.", min=1)] = 20_000,
    body: Annotated[int, typer.Option(help="Bytes of one request.", min=1)] = 1 << 20,
    seconds: Annotated[float, typer.Option(help="Seconds until a request is given up.", min=0.001)] = 60.0,
) -> None:
    """Serve classifiers of one base model over HTTP: /classify, /explain, /healthz, /metrics, and a page to try a text on.

    With CLM_KERNELS_TOKEN in the environment, requests need it as Authorization: Bearer.
    """
    quiet()
    import uvicorn

    from ..serving.service.app import make_app
    from ..serving.service.limits import Limits
    from ..serving.service.served import Served
    from ..serving.trunk import Trunk

    token = os.environ.get(TOKEN, "")
    alone = host in LOOPBACK or bool(token)
    require(alone, "serve", "host", f"a loopback address, or {TOKEN} set", repr(host))
    named = [_named(each) for each in task]
    doubled = next((name for i, (name, _) in enumerate(named) if name in dict(named[:i])), None)
    require(doubled is None, "serve", "task", "a name for each folder that no other one has", f"{doubled!r} twice")
    limits = Limits(batch, wait, queue, body, texts, characters, seconds)
    trunk = Trunk(model)
    for name, folder in named:
        trunk.add(name, folder)
        stderr.print(f"{name}: {folder}", markup=False)
    told = {"log_level": "warning", "timeout_keep_alive": KEEP, "timeout_graceful_shutdown": 30}
    config = uvicorn.Config(make_app(Served(trunk), limits, token), host=host, port=port, **told)
    listening = config.bind_socket()
    listening.listen(config.backlog)  # so that nobody who reads the next line comes too early
    print(
        f"serving at http://{host}:{listening.getsockname()[1]}", flush=True
    )  # with --quiet too: of port 0 nobody else tells it
    uvicorn.Server(config).run([listening])


def _named(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    require(bool(name and equals and folder), "serve", "task", "NAME=FOLDER", repr(text))
    return name, folder
