"""The page's server: it shows pairs blindly, and answers a vote when it is on the disk."""

from __future__ import annotations

import hmac
import html
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...errors import UserError
from .study import Blind, Study
from .votes import CHOICES, Refused, Votes

LOCAL = ("127.0.0.1", "localhost", "::1")
_MOST_BYTES = 4096  # of a vote
_MOST_CHARACTERS = 100  # of a name, and of a vote's id
_TYPES = {"judge.js": "text/javascript", "judge.css": "text/css"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Judge:
    """What the server answers. It keeps nothing: all state is in the database."""

    def __init__(self, study: Study, votes: Votes) -> None:
        self._study = study
        self._votes = votes
        self._blind = Blind(study, votes.secret)

    @property
    def token(self) -> str:
        """What the link must hold where others than this machine reach the page; the same after a restart."""
        return self._blind.number("link")

    def page(self, request: Request) -> Response:
        """The page, with the study's question."""
        text = _file("index.html").replace("QUESTION", html.escape(self._votes.content["question"]))
        return Response(text.replace("STUDY", self._blind.number("study")), media_type="text/html")

    def health(self, request: Request) -> Response:
        """That the server runs."""
        return JSONResponse({"status": "ok"})

    def next(self, request: Request) -> Response:
        """The pair that a rater sees next: tokens alone, null at the end, and how far the rater is."""
        return JSONResponse(self._next(_name(request.query_params.get("rater"), "rater")))

    def picture(self, request: Request) -> Response:
        """The pixels behind a token, as a PNG file."""
        found = self._blind.pictures.get(request.path_params["token"])
        if found is None:
            raise HTTPException(404, "there is no such picture")
        return Response(self._study.picture(*found), media_type="image/png")

    async def vote(self, request: Request) -> Response:
        """Stores one vote."""
        return JSONResponse(await run_in_threadpool(self._vote, await _body(request)))

    def _next(self, rater: str) -> dict[str, Any]:
        seen = [(self._votes.pair(*row), row[1]) for row in self._votes.seen(rater)]
        shown = self._blind.next(rater, seen, self._votes.counts())
        tokens: dict[str, str | None] = {"pair": None, "left": None, "right": None}
        if shown is not None:
            pair, left = shown
            tokens = {
                "pair": self._blind.pair(pair),
                "left": self._blind.picture(pair, left),
                "right": self._blind.picture(pair, pair.other(left)),
            }
        return {**tokens, "done": len(seen), "total": self._blind.total}

    def _vote(self, content: dict[str, Any]) -> dict[str, Any]:
        identity, rater = _name(content.get("id"), "id"), _name(content.get("rater"), "rater")
        choice, left = content.get("choice"), content.get("left")
        if choice not in CHOICES:
            raise HTTPException(400, f"choice must be one of {', '.join(CHOICES)}")
        pair = self._blind.pairs.get(content["pair"]) if isinstance(content.get("pair"), str) else None
        if pair is None:
            raise HTTPException(404, "there is no such pair")
        shown, name = self._blind.pictures.get(left, (None, "")) if isinstance(left, str) else (None, "")
        if shown != pair:
            raise HTTPException(404, "left is no picture of this pair")
        try:
            self._votes.add(identity, rater, pair.name, name, pair.other(name), choice)
        except Refused as error:
            raise HTTPException(409, str(error)) from error
        return {"done": len(self._votes.seen(rater)), "total": self._blind.total}


def application(judge: Judge, *, token: str | None, ready: Callable[[], None] = lambda: None) -> Starlette:
    """The web application; with a token, it answers only links that hold it, without one only this machine.

    ready: called when it answers at once.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(lambda: None)  # the first use imports what it needs
        ready()
        yield

    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        why = _refusal(request, token)
        response = await answer(request) if why is None else JSONResponse({"error": why}, 403)
        response.headers.update(_HEADERS)
        return response

    routes = [
        Route("/", judge.page),
        Route("/api/health", judge.health),
        Route("/api/next", judge.next),
        Route("/api/vote", judge.vote, methods=["POST"]),
        Route("/picture/{token}", judge.picture),
        *(Route(f"/{name}", _static(name, kind)) for name, kind in _TYPES.items()),
    ]
    answers: Any = {HTTPException: lambda request, error: JSONResponse({"error": error.detail}, error.status_code)}
    return Starlette(
        lifespan=lifespan,
        routes=routes,
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
        exception_handlers=answers,
    )


def serve(study: Study, votes: Votes, host: str, port: int) -> None:
    """Serves the study until it is interrupted; prints the link. `UserError` where the port cannot be had."""
    judge = Judge(study, votes)
    token = None if host in LOCAL else judge.token
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    link = f"http://{shown}:{port}/{'' if token is None else f'?token={token}'}"
    app = application(judge, token=token, ready=lambda: print(f"judge: {link}", flush=True))
    config = uvicorn.Config(app, log_level="warning", server_header=False)
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{host}, port {port}, cannot be listened to: {why}; give another --port or --host") from error


def _refusal(request: Request, token: str | None) -> str | None:
    """Why a request isn't answered: it comes from another page, or from a machine that has not got the link."""
    here = request.headers.get("host", "")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != here:
        return "requests of other pages are not answered"
    if token is None:
        # A page elsewhere may let its own name lead to this machine.
        return None if urlsplit(f"//{here}").hostname in LOCAL else "only this machine is answered"
    given = request.query_params.get("token", "")
    if request.url.path in ("/api/health", *(f"/{name}" for name in _TYPES)):
        return None
    return None if hmac.compare_digest(given.encode(), token.encode()) else "the link lacks the token"


async def _body(request: Request) -> dict[str, Any]:
    received = b""
    async for part in request.stream():
        received += part
        if len(received) > _MOST_BYTES:
            raise HTTPException(413, f"a vote has at most {_MOST_BYTES} bytes")
    try:
        content = json.loads(received)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "a vote must be JSON") from error
    if not isinstance(content, dict):
        raise HTTPException(400, "a vote must be a JSON object")
    return content


def _name(value: object, what: str) -> str:
    name = value.strip() if isinstance(value, str) else ""
    if not 1 <= len(name) <= _MOST_CHARACTERS or not name.isprintable():
        raise HTTPException(400, f"{what} must be a text of 1 to {_MOST_CHARACTERS} characters that can be printed")
    return name


def _file(name: str) -> str:
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def _static(name: str, kind: str) -> Callable[[Request], Response]:
    return lambda request: Response(_file(name), media_type=kind)
