"""`make_app`: the routes of the service.

Annotations are evaluated here: FastAPI reads the forms of bodies, which depend on the limits, from them.
"""

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StrictStr, StringConstraints
from starlette.exceptions import HTTPException

from .batching import Batcher, Busy, Closed
from .explaining import left_out, weights
from .guards import BoundedBody, Counted, Token
from .limits import Limits
from .metrics import Metrics

RETRY = {"Retry-After": "1"}


class Tasks(Protocol):
    """What is served: a `Trunk`, or anything that answers as one."""

    @property
    def names(self) -> Sequence[str]: ...

    def labels(self, name: str) -> Sequence[str]: ...

    def classify(self, texts: list[Any], tasks: list[str], top: int = 1) -> Sequence[Any]: ...

    def described(self, name: str, prediction: Any) -> dict[str, Any]: ...

    def is_tagger(self, name: str) -> bool: ...

    def has_several(self, name: str) -> bool: ...

    def shares(self, name: str, prediction: Any) -> dict[str, float]:
        """Every label's probability, of a prediction with as many labels as there are."""


def make_app(tasks: Tasks, limits: Limits | None = None, token: str = "") -> Any:
    """An ASGI application that answers for `tasks`; any server of ASGI runs it.

    Args:
        limits: of what it takes.
        token: which ``/classify``, ``/explain`` and ``/metrics`` ask for as ``Authorization: Bearer``; empty asks for none.
    """
    limits = limits or Limits()
    Text = Annotated[StrictStr, StringConstraints(min_length=1, max_length=limits.characters)]
    Words = Annotated[list[Text], Field(min_length=1, max_length=limits.characters)]

    class Asked(BaseModel):
        """The body of ``/classify``."""

        model_config = ConfigDict(extra="forbid")
        texts: Annotated[list[Text | Words], Field(min_length=1, max_length=limits.texts)]
        tasks: StrictStr | list[StrictStr] | None = None
        top: Annotated[int, Field(ge=1, le=1000)] = 1

    class Doubted(BaseModel):
        """The body of ``/explain``."""

        model_config = ConfigDict(extra="forbid")
        text: Text
        task: StrictStr

    # one forward pass at a time, each as soon as the last is over
    batcher = Batcher(tasks.classify, limits, lambda size: metrics.batches.observe(size))
    metrics = Metrics(lambda: batcher.waiting, lambda: len(tasks.names))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        running = asyncio.create_task(batcher.run())
        yield
        batcher.close()
        await running

    app = FastAPI(title="clm_kernels", lifespan=lifespan, openapi_url=None)
    _answer_errors_in_one_form(app)

    async def answered(texts: list[Any], of: list[str], top: int) -> list[Any]:
        for name in of:
            if name not in tasks.names:
                raise HTTPException(422, f"tasks must be among {', '.join(tasks.names)}, got {name!r}")
        try:
            found = await asyncio.wait_for(batcher.ask(texts, of, top), limits.seconds)
        except Busy:
            raise HTTPException(503, f"{limits.queue:,} texts wait already; try again later", RETRY) from None
        except Closed:
            raise HTTPException(503, "the service is shutting down", RETRY) from None
        except TimeoutError:
            raise HTTPException(504, f"no answer within {limits.seconds:g} seconds") from None
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        for name in of:
            metrics.texts.labels(name).inc()
        return found

    @app.post("/classify")
    async def classify(asked: Asked) -> JSONResponse:
        """What each text is, by the tasks that were asked for: one for all, one for each, or without any all of them."""
        count, named = len(asked.texts), asked.tasks
        if isinstance(named, list) and len(named) != count:
            raise HTTPException(422, f"tasks must be one name, or one for each of the {count} texts, got {len(named)}")
        of = [named] * count if isinstance(named, str) else named or [name for _ in asked.texts for name in tasks.names]
        if len(of) > limits.texts:
            raise HTTPException(422, f"texts times tasks must be at most {limits.texts:,}, got {len(of):,}")
        for name in {*of} & {*tasks.names} if named is not None else ():
            if not (tasks.is_tagger(name) or tasks.has_several(name)) and asked.top > (most := len(tasks.labels(name))):
                raise HTTPException(422, f"top must be at most {most}, the number of labels of {name!r}, got {asked.top}")
        each = len(of) // count
        found = await answered([text for text in asked.texts for _ in range(each)], of, asked.top)
        told = [{"task": name} | tasks.described(name, one) for name, one in zip(of, found, strict=True)]
        results = told if named is not None else [told[i : i + each] for i in range(0, len(told), each)]
        return JSONResponse({"results": results})  # which FastAPI would else look through once more

    @app.post("/explain")
    async def explain(asked: Doubted) -> dict[str, Any]:
        """How much each word of a text carried its label: what the label's probability loses without the word.

        Where a text may have several: every label with its probability, and the words of each label that it has; of the likeliest
        where it has none.
        """
        if asked.task in tasks.names and tasks.is_tagger(asked.task):
            raise HTTPException(422, f"task must be one of whole texts, got {asked.task!r}, which tags words")
        words, texts = left_out(asked.text)
        if len(texts) > limits.texts:
            raise HTTPException(422, f"text must have fewer than {limits.texts:,} words, got {len(words):,}")
        of = [asked.task] * len(texts)
        most = len(tasks.labels(asked.task)) if asked.task in tasks.names else 1
        found = await answered(texts, of, most)
        told, shares = tasks.described(asked.task, found[0]), [tasks.shares(asked.task, one) for one in found]
        told.pop("best", None)  # every label, which only the weights are made of
        if not tasks.has_several(asked.task):
            return {"task": asked.task, **told, "words": weights(words, told["label"], shares)}
        every = sorted(shares[0].items(), key=lambda pair: -pair[1])
        best = [{"label": label, "probability": probability} for label, probability in every]
        explained = [{"label": label, "words": weights(words, label, shares)} for label in told["labels"] or [every[0][0]]]
        return {"task": asked.task, **told, "best": best, "explained": explained}

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return {"status": "ok", "tasks": list(tasks.names)}

    @app.get("/metrics")
    async def counters() -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    @app.get("/")
    async def page() -> HTMLResponse:
        safe = {
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        }
        return HTMLResponse(files(__package__).joinpath("page.html").read_text(encoding="utf-8"), headers=safe)

    guarded: Any = Token(app, token) if token else app
    return Counted(BoundedBody(guarded, limits.body), metrics)


def _answer_errors_in_one_form(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        return JSONResponse({"error": f"{place}: {first['msg']}"}, 422)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"{type(error).__name__}: this text could not be classified"}, 500)
