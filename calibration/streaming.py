"""One streamed completion over HTTP, token by token, from a server on this machine: vLLM, SGLang or llama.cpp."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from simcache.errors import InputError, UnknownNameError

Api = Literal["openai", "llamacpp"]
APIS: Final = ("openai", "llamacpp")
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_MOST_HEADERS: Final = 100


@dataclass(frozen=True)
class Address:
    """Where a server listens on this machine.

    >>> address_of("http://127.0.0.1:8000/")
    Address(host='127.0.0.1', port=8000)
    """

    host: str
    port: int


def address_of(url: str) -> Address:
    """The address behind ``http://127.0.0.1:PORT``; raises InputError for any other host: nothing leaves this machine."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
    except ValueError as error:
        raise InputError("url", url, f"is no address: {error}") from None
    if parts.scheme != "http" or parts.path.strip("/"):
        raise InputError("url", url, "must look like http://127.0.0.1:PORT")
    if host not in LOOPBACK:
        raise InputError("url", url, "is not on this machine", "Measure where the server runs: traffic goes to 127.0.0.1 only.")
    return Address(host, port)


@dataclass
class Reply:
    """What came back so far; instants by the clock handed in. ``outcome`` ok, rejected (4xx) or failed; None: still going on.

    ``tokens`` None: the server does not tell ids. ``cached_tokens`` None: it does not tell what was cached.
    """

    sent_at_s: float = 0.0
    token_at_s: list[float] = field(default_factory=list)
    tokens: list[int] | None = None
    output_tokens: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    server: dict[str, Any] = field(default_factory=dict)
    outcome: str | None = None
    error: str | None = None
    ended_at_s: float = 0.0


class _Broken(Exception):
    """The server answered something else than a whole stream."""


async def complete(
    address: Address,
    api: Api,
    prompt: Sequence[int],
    output_tokens: int,
    reply: Reply,
    *,
    model: str = "",
    priority: int = 0,
    timeout_s: float = 60.0,
    clock: Callable[[], float] = time.perf_counter,
    on_first: Callable[[], None] = lambda: None,
) -> Reply:
    """Ask for ``output_tokens`` tokens after ``prompt`` and fill ``reply`` as they come.

    Never raises for what the server does: an error status, a stream that ends early or ``timeout_s`` without a token end in
    ``reply.outcome`` and ``reply.error``. Cancelling the task closes the connection, which is how servers are told to stop.
    """
    take = _TAKES[api]
    path, body = _BODIES[api](prompt, output_tokens, model, priority)
    reply.sent_at_s = clock()
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s) as silence:
            reader, writer = await asyncio.open_connection(address.host, address.port)
            reply.sent_at_s = clock()
            writer.write(_request("POST", path, address, json.dumps(body).encode()))
            status, headers = await _head(reader)
            if status != 200:
                text = await _rest(reader, headers)
                reply.outcome = "rejected" if 400 <= status < 500 else "failed"
                reply.error = f"HTTP {status}: {text.decode('utf-8', 'replace')[:200]}"
                return reply
            ended = False
            async with contextlib.aclosing(_lines(reader, headers)) as lines:
                async for line in lines:
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        break
                    new, ended_now = take(_object(data), reply)
                    ended = ended or ended_now
                    if new:
                        first = not reply.token_at_s
                        now = clock()
                        reply.token_at_s += [now] * new
                        reply.output_tokens = len(reply.token_at_s)
                        silence.reschedule(asyncio.get_running_loop().time() + timeout_s)
                        if first:
                            on_first()
                        if len(reply.token_at_s) > 2 * output_tokens + 16:
                            raise _Broken(f"more than the {output_tokens} tokens that were asked for")
            if not ended or not reply.token_at_s:
                raise _Broken("the stream ended before the answer did")
            cached = reply.cached_tokens
            if cached is not None and not (isinstance(cached, int) and 0 <= cached <= len(prompt)):
                reply.cached_tokens = None
                raise _Broken(f"{cached} cached tokens of a prompt of {len(prompt)}")
            if reply.server.get("output_tokens"):
                reply.output_tokens = int(reply.server["output_tokens"])
            reply.outcome = "ok"
    except TimeoutError:
        reply.outcome, reply.error = "failed", f"no token for {timeout_s:g} s"
    except (OSError, EOFError, _Broken, ValueError, LookupError, TypeError, AttributeError) as error:  # JSON of any other shape
        reply.outcome, reply.error = "failed", f"{type(error).__name__.strip('_')}: {error}"[:200]
    finally:
        reply.ended_at_s = clock()
        if writer is not None:
            writer.transport.abort()  # whether it was read to its end or not: no connection is used twice
    return reply


async def get_json(address: Address, path: str, timeout_s: float = 10.0) -> Any:
    """The JSON that a GET gives; None where the server has nothing there. Raises OSError or TimeoutError."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(_request("GET", path, address, b""))
            status, headers = await _head(reader)
            text = await _rest(reader, headers)
            return json.loads(text) if status == 200 else None
    except (EOFError, _Broken, ValueError):
        return None
    finally:
        if writer is not None:
            writer.transport.abort()


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    """What a server says of itself; None: it does not say."""

    model: str = ""
    context_tokens: int | None = None
    slots: int | None = None
    version: str = ""


async def server_info(address: Address, api: Api) -> ServerInfo:
    """Ask the server what it is. Raises InputError where nobody answers."""
    if api not in APIS:
        raise UnknownNameError("api", api, APIS)
    try:
        models = await get_json(address, "/v1/models")
        props = await get_json(address, "/props") if api == "llamacpp" else None
        version = await get_json(address, "/version") if api == "openai" else None
    except (OSError, TimeoutError) as error:
        way_out = "Start the server first, or use --start llamacpp."
        raise InputError(
            "url", f"http://{address.host}:{address.port}", f"does not answer: {error or 'timeout'}", way_out
        ) from None
    first = models["data"][0] if isinstance(models, dict) and models.get("data") else {}
    settings = props.get("default_generation_settings", {}) if isinstance(props, dict) else {}
    return ServerInfo(
        model=str(first.get("id", "")),
        context_tokens=settings.get("n_ctx") or first.get("max_model_len"),
        slots=props.get("total_slots") if isinstance(props, dict) else None,
        version=str(props.get("build_info", "") if isinstance(props, dict) else (version or {}).get("version", "")),
    )


def _request(method: str, path: str, address: Address, body: bytes) -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    words = (await reader.readline()).split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise _Broken("the answer is not HTTP")
    headers: dict[str, str] = {}
    for _ in range(_MOST_HEADERS):
        line = (await reader.readline()).strip()
        if not line:
            return int(words[1]), headers
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    raise _Broken("the answer has no end of headers")


async def _pieces(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncGenerator[bytes, None]:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        left = int(headers.get("content-length", -1))
        while left and (piece := await reader.read(65_536 if left < 0 else min(left, 65_536))):
            left -= len(piece) if left > 0 else 0
            yield piece
        if left > 0:
            raise _Broken("the connection was closed in the middle")
        return
    while True:
        size = (await reader.readline()).partition(b";")[0].strip()
        if not size:
            raise _Broken("the connection was closed in the middle")
        if not (length := int(size, 16)):
            return
        yield await reader.readexactly(length)
        await reader.readline()


async def _lines(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncGenerator[bytes, None]:
    left = b""
    async with contextlib.aclosing(_pieces(reader, headers)) as pieces:
        async for piece in pieces:
            *whole, left = (left + piece).split(b"\n")
            for line in whole:
                yield line.strip()
    if left.strip():
        yield left.strip()


async def _rest(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    text = b""
    with contextlib.suppress(_Broken, EOFError):
        async for piece in _pieces(reader, headers):
            text += piece
    return text


def _object(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise _Broken("an event of the stream is no JSON object")
    if "error" in found:
        raise _Broken(str(found["error"])[:160])
    return found


def _llamacpp_body(prompt: Sequence[int], output_tokens: int, model: str, priority: int) -> tuple[str, dict[str, Any]]:
    return "/completion", {
        "prompt": list(prompt),
        "n_predict": output_tokens,
        "stream": True,
        "cache_prompt": True,
        "ignore_eos": True,
        "temperature": 0,
        "return_tokens": True,
    }


def _openai_body(prompt: Sequence[int], output_tokens: int, model: str, priority: int) -> tuple[str, dict[str, Any]]:
    body = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "temperature": 0,
        "return_token_ids": True,  # vLLM; others ignore it
    }
    return "/v1/completions", body | ({"priority": priority} if priority else {})


def _take_llamacpp(event: dict[str, Any], reply: Reply) -> tuple[int, bool]:
    """New tokens of one event, and whether it is the last."""
    ids = event.get("tokens") or []
    if ids:
        reply.tokens = (reply.tokens or []) + ids
    if not event.get("stop"):
        return max(len(ids), 1), False
    timings = event.get("timings") or {}
    reply.server = {name: timings[name] for name in ("prompt_n", "prompt_ms", "predicted_n", "predicted_ms") if name in timings}
    reply.server["output_tokens"] = timings.get("predicted_n", event.get("tokens_predicted"))
    if "id_slot" in event:
        reply.server["slot"] = event["id_slot"]
    reply.cached_tokens = timings.get("cache_n")
    reply.prompt_tokens = event.get("tokens_evaluated")
    return len(ids), True


def _take_openai(event: dict[str, Any], reply: Reply) -> tuple[int, bool]:
    """As above; the usage comes in an event of its own or with the last choice."""
    usage = event.get("usage")
    if usage:
        reply.prompt_tokens = usage.get("prompt_tokens")
        details = usage.get("prompt_tokens_details") or {}
        reply.cached_tokens = details.get("cached_tokens", reply.cached_tokens)
        reply.server["output_tokens"] = usage.get("completion_tokens")
    choices = event.get("choices") or []
    if not choices:
        return 0, False
    ids = choices[0].get("token_ids") or []
    if ids:
        reply.tokens = (reply.tokens or []) + ids
    last = choices[0].get("finish_reason") is not None
    return len(ids) or int(bool(choices[0].get("text")) or not last), last


_BODIES: Final = {"openai": _openai_body, "llamacpp": _llamacpp_body}
_TAKES: Final = {"openai": _take_openai, "llamacpp": _take_llamacpp}
