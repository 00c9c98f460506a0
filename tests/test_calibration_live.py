"""Playing people against a server: a small fake one that errs on request, over real sockets on this machine."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from calibration.__main__ import main
from calibration.grid import Point
from calibration.live import Played, play
from calibration.live_backend import Target
from calibration.measure import PointFailed
from calibration.server_runner import ServerRunner
from calibration.streaming import Address, Api, Reply, ServerInfo, address_of, complete, server_info
from calibration.timing import Patience
from calibration.token_book import TokenBook
from simcache.errors import InputError
from simcache.live_log import LiveRow, read_live_rows, read_live_run
from simcache.logs import read_usage
from simcache.prompt import Request, Segment, prompt_tokens, shared_prefix_tokens
from simcache.scenario import Scenario, Server
from simcache.warming import NoWarming, WarmAfterPause, WarmingPolicy
from simcache.workload.presets import TypingSessions
from simcache.workload.synthetic import RequestList

T = TypeVar("T")
FAST = TypingSessions(
    users=3, arrive_within_s=0.2, document_tokens=200, system_tokens=50, questions=2, question_tokens=10, output_tokens=4,
    typing_s=0.15, read_think_s=0.05, paste_share=0.0,
)  # fmt: skip


class FakeServer:
    """Serves both protocols: 1 ms to the first token, then one every ms. ``errs`` by the number of the request, from 0.

    It keeps every prompt, as one large cache would, and tells how much of a prompt it had.
    """

    def __init__(self, errs: Callable[[int], str] = lambda number: "", *, context: int = 4096) -> None:
        self.errs, self.context = errs, context
        self.prompts: list[list[int]] = []
        self.closed_early = 0
        self.port = 0

    async def __aenter__(self) -> FakeServer:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed_early += 1
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, path, _ = (await reader.readline()).split()
        length = 0
        while (line := (await reader.readline()).strip()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        if method == b"GET":
            found: Any = {"/v1/models": {"data": [{"id": "fake"}]}}.get(path.decode())
            if path == b"/props":
                found = {"default_generation_settings": {"n_ctx": self.context}, "total_slots": 4, "build_info": "fake 1"}
            text = json.dumps(found).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
            return
        body = json.loads(await reader.readexactly(length))
        number, prompt = len(self.prompts), body["prompt"]
        cached = max((same(prompt, other) for other in self.prompts), default=0)
        self.prompts.append(prompt)
        wrong = self.errs(number)
        cached = -3 if wrong == "count" else min(cached, len(prompt) - 1)
        if wrong in ("500", "400"):
            writer.write(b"HTTP/1.1 %s No\r\nContent-Length: 4\r\n\r\nsad\n" % wrong.encode())
            return
        if wrong == "hang":
            await reader.read()  # until the client goes away
            self.closed_early += 1
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        new = [7 + number % 50 + i for i in range(body.get("n_predict") or body.get("max_tokens"))]
        for i, token in enumerate(new):
            await asyncio.sleep(0.5 if wrong == "slow" else 1e-3)
            if reader.at_eof():
                self.closed_early += 1
                return
            if wrong == "drop" and i == 1:
                return
            if wrong == "nonsense":
                await chunk(writer, b"data: {not json\n\n")
            if wrong == "shape":
                await chunk(writer, b'data: {"choices": [5], "tokens": 7}\n\n')
            if path == b"/completion":
                event: Any = {"tokens": [token], "stop": False}
            else:
                event = {"choices": [{"text": "w", "token_ids": [token], "finish_reason": "length" if i + 1 == len(new) else None}]}
            await chunk(writer, b"data: " + json.dumps(event).encode() + b"\n\n")
        if path == b"/completion":
            timings = {"cache_n": cached, "prompt_n": len(prompt) - cached, "prompt_ms": 1.0, "predicted_n": len(new)}
            last: Any = {"tokens": [], "stop": True, "tokens_evaluated": len(prompt), "timings": timings, "id_slot": 0}
            await chunk(writer, b"data: " + json.dumps(last).encode() + b"\n\n")
        else:
            usage = {
                "prompt_tokens": len(prompt),
                "completion_tokens": len(new),
                "prompt_tokens_details": {"cached_tokens": cached},
            }
            await chunk(writer, b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")


async def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    middle = len(data) // 2  # events do not come in whole pieces
    for part in (data[:middle], data[middle:]):
        writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        await writer.drain()


def same(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def against(server: FakeServer, what: Callable[[FakeServer], Awaitable[T]]) -> T:
    async def run() -> T:
        async with server, asyncio.timeout(20):
            return await what(server)

    return asyncio.run(run())


def played(
    server: FakeServer,
    workload: Any = FAST,
    warming: WarmingPolicy = NoWarming(),
    *,
    api: Api = "llamacpp",
    timeout_s: float = 5.0,
    duration_s: float = 1.0,
) -> tuple[Played, list[LiveRow]]:
    rows: list[LiveRow] = []
    scenario = Scenario(workload=workload, backend=Server(), warming=warming)

    def run(server: FakeServer) -> Awaitable[Played]:
        return play(scenario, Target(address=server.address, api=api, timeout_s=timeout_s), rows.append, duration_s=duration_s)

    return against(server, run), rows


# --- tokens


def test_segments_agree_as_far_as_they_share_and_not_by_chance() -> None:
    book = TokenBook(100, 200)  # so few ids that chance would strike
    keys = [f"s{i}" for i in range(90)]
    first = [book.ids([Segment(key, 5)])[0] for key in keys]
    assert len(set(first)) == 90
    assert book.ids([Segment("s1", 40)])[:5] == book.ids([Segment("s1", 5)])
    assert book.ids([Segment("s1", 3), Segment("s2", 2)]) == book.ids([Segment("s1", 3)]) + book.ids([Segment("s2", 2)])
    assert all(100 <= token < 200 for token in book.ids([Segment("s3", 500)]))
    assert book.ids([Segment("s1", 40)], ("salt",)) != book.ids([Segment("s1", 40)])
    assert TokenBook(100, 200, nonce=1).ids([Segment("s1", 40)]) != TokenBook(100, 200).ids([Segment("s1", 40)])


def test_answers_are_what_the_server_generated() -> None:
    book = TokenBook()
    book.learn(Segment("a", 3), [5, 6, 7])
    assert book.ids([Segment("a", 2)]) == [5, 6]
    assert book.ids([Segment("a", 4)])[:3] == [5, 6, 7]


# --- one stream


@pytest.mark.parametrize("api", ["openai", "llamacpp"])
def test_a_stream_is_read_token_by_token(api: Api) -> None:
    heard: list[str] = []

    async def ask(server: FakeServer) -> list[Reply]:
        prompt = list(range(50))
        call = [complete(server.address, api, prompt, 6, Reply(), on_first=lambda: heard.append("first")) for _ in range(2)]
        return [await each for each in call]

    cold, warm = against(FakeServer(), ask)
    assert (cold.outcome, cold.error, cold.output_tokens, cold.prompt_tokens) == ("ok", None, 6, 50)
    assert (cold.cached_tokens, warm.cached_tokens) == (0, 49)
    assert cold.tokens == [7, 8, 9, 10, 11, 12]
    assert cold.sent_at_s < cold.token_at_s[0] < cold.token_at_s[-1] <= cold.ended_at_s
    assert heard == ["first", "first"]


@pytest.mark.parametrize("api", ["openai", "llamacpp"])
@pytest.mark.parametrize(
    ("wrong", "outcome", "says"),
    [
        ("500", "failed", "HTTP 500: sad"),
        ("400", "rejected", "HTTP 400: sad"),
        ("drop", "failed", "closed in the middle"),
        ("hang", "failed", "no token for 0.2 s"),
        ("slow", "failed", "no token for 0.2 s"),
        ("nonsense", "failed", "JSONDecodeError"),
        ("shape", "failed", "Error: "),
        ("count", "failed", "-3 cached tokens of a prompt of 3"),
    ],
)
def test_what_a_server_does_wrong_ends_one_request(api: Api, wrong: str, outcome: str, says: str) -> None:
    async def ask(server: FakeServer) -> Reply:
        return await complete(server.address, api, [1, 2, 3], 4, Reply(), timeout_s=0.2)

    reply = against(FakeServer(lambda number: wrong), ask)
    assert reply.outcome == outcome
    assert says in str(reply.error)


def test_nobody_at_home() -> None:
    async def ask(server: FakeServer) -> Reply:
        server.server.close()
        return await complete(server.address, "openai", [1], 1, Reply(), timeout_s=1)

    assert against(FakeServer(), ask).outcome == "failed"

    async def info(server: FakeServer) -> ServerInfo:
        server.server.close()
        return await server_info(server.address, "openai")

    with pytest.raises(InputError, match="does not answer"):
        against(FakeServer(), info)


@pytest.mark.parametrize(
    "url", ["http://example.com:80", "https://127.0.0.1:1", "127.0.0.1:80", "http://127.0.0.1:x", "http://10.0.0.1"]
)
def test_nothing_leaves_this_machine(url: str) -> None:
    with pytest.raises(InputError, match="url"):
        address_of(url)


# --- people


@pytest.mark.parametrize("api", ["openai", "llamacpp"])
def test_people_are_those_of_the_simulator(api: Api) -> None:
    run, rows = played(FakeServer(), api=api)
    expected = {(turn.session, turn.index) for person in FAST.people(0, 1.0) for turn in person.turns}
    assert {(row.session, row.turn) for row in rows} == expected
    assert run.outcomes == {"ok": 6}
    assert run.answers_known
    for row in rows:
        others = [other for other in rows if other.arrived_at_s < row.arrived_at_s]
        shared = max((shared_prefix_tokens((*other.prompt, other.output), row.prompt) for other in others), default=0)
        if row.turn == 1:  # the whole first turn stands in the cache, but for its answer's last token
            assert row.cached_tokens is not None
            assert row.cached_tokens >= shared - 4 >= 250
        assert row.output.tokens == 4
        assert row.ttft_s is not None
        assert 0 < row.ttft_s < 2
    kept = run.records
    assert sorted(kept.ttft_s.tolist()) == pytest.approx(sorted(row.ttft_s for row in rows), abs=5e-3)


def test_generated_tokens_come_back_in_later_prompts() -> None:
    server = FakeServer()
    _, rows = played(server)
    second = [prompt for prompt in server.prompts if len(prompt) > 270]
    assert second
    for prompt in second:
        answer = prompt[260:264]  # behind system 50, document 200 and question 10
        assert answer == list(range(answer[0], answer[0] + 4))
        assert answer[0] < 100  # the server's own ids; made-up ones start at 1000
    assert len(rows) == 6


def test_warm_ups_are_sent_before_the_question_and_superseded_ones_cancelled() -> None:
    workload = dataclasses.replace(FAST, typing_s=0.6, question_tokens=40, users=2)
    slow_warm = FakeServer(lambda number: "slow")
    run, rows = played(slow_warm, workload, WarmAfterPause(pause_s=0.01, with_draft=True), duration_s=0.5)
    kinds = {row.kind for row in rows}
    assert kinds == {"user", "warm"}
    cancelled = [row for row in rows if row.outcome == "cancelled"]
    assert cancelled
    assert all(row.kind == "warm" for row in cancelled)
    assert run.outcomes["cancelled"] == len(cancelled)
    assert run.outcomes["ok"] == len(rows) - len(cancelled)
    assert slow_warm.closed_early >= 1
    first = {row.session: row for row in reversed(rows) if row.kind == "user" and row.turn == 0}
    for row in rows:
        if row.kind == "warm" and row.turn == 0:
            assert row.submitted_at_s < first[row.session].submitted_at_s


@pytest.mark.parametrize("wrong", ["500", "drop", "hang", "shape", "count"])
def test_failures_are_recorded_and_the_run_goes_on(wrong: str) -> None:
    run, rows = played(FakeServer(lambda number: wrong if number % 2 else ""), timeout_s=0.3)
    assert len(rows) == 6
    assert run.outcomes == {"failed": 3, "ok": 3}
    assert all(row.error for row in rows if row.outcome == "failed")
    assert run.elapsed_s < 5


def test_a_server_that_always_hangs_ends_bounded() -> None:
    run, rows = played(FakeServer(lambda number: "hang"), timeout_s=0.2, duration_s=0.5)
    assert {row.outcome for row in rows} == {"failed"}
    assert run.elapsed_s < 3


def test_an_open_loop_is_sent_at_its_own_instants() -> None:
    requests = tuple(Request(i * 0.05, (Segment("doc", 100), Segment(f"q{i}", 5)), Segment(f"a{i}", 3)) for i in range(8))
    run, rows = played(FakeServer(), RequestList(rows=requests), duration_s=0.31)
    assert [row.submitted_at_s for row in rows] == pytest.approx([i * 0.05 for i in range(7)])
    assert run.lag_max_s < 0.2


# --- the log


def test_the_log_is_a_recorded_run_and_a_usage_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "chat.toml"
    scenario.write_text(
        'name = "chat"\nduration_s = 1\nbackend.kind = "server"\n[workload]\nkind = "typing-sessions"\nusers = 8\n'
        "arrive_within_s = 0.3\ndocument_tokens = 100\nquestions = 2\nquestion_tokens = 9\noutput_tokens = 3\ntyping_s = 0.1\n"
        "read_think_s = 0.05\npaste_share = 0\n"
    )
    log, usage = tmp_path / "log.jsonl", tmp_path / "usage.jsonl"

    async def run(server: FakeServer) -> int:
        words = ["live", "--url", f"http://127.0.0.1:{server.port}", "--api", "llamacpp", "--scenario", str(scenario)]
        words += ["--out", str(log), "--usage-out", str(usage), "--timeout-s", "5"]
        return await asyncio.to_thread(main, words)

    assert against(FakeServer(), run) == 0
    said = capsys.readouterr().out
    assert "16 requests" in said
    assert "16 ok" in said
    rows = list(read_live_rows(log))
    recorded, notes = read_live_run(log)
    assert len(rows) == len(recorded.requests) == 16
    assert notes == []
    arrived = [request.arrived_at_s for request in recorded.requests]
    assert arrived == sorted(arrived)
    assert (recorded.ttft_s > 0).all()
    assert (recorded.e2e_s >= recorded.ttft_s).all()
    assert recorded.hit_tokens is not None
    assert recorded.hit_tokens.max() > 100
    assert np.isclose(read_usage(usage).column("ttft_s"), [row.ttft_s for row in rows]).all()
    born = json.loads(log.with_suffix(".json").read_text())
    assert born["outcomes"] == {"ok": 16}
    assert born["requests"] == 16
    assert born["server"]["version"] == "fake 1"


def test_what_cannot_be_simulated_is_left_out_and_named(tmp_path: Path) -> None:
    def row(at_s: float, outcome: str, ttft_s: float | None, cancelled_after_s: float | None = None) -> LiveRow:
        output = Segment(f"a{at_s}", 3)
        return LiveRow(
            arrived_at_s=at_s + 0.5, submitted_at_s=at_s, prompt=(Segment("q", 9),), output=output, outcome=outcome, ttft_s=ttft_s,
            e2e_s=ttft_s if outcome == "ok" else None, cached_tokens=2 if outcome == "ok" else None,
            cancelled_after_s=cancelled_after_s,
        )  # fmt: skip

    rows = [row(float(i), "ok", 0.75) for i in range(10)] + [row(20.0, "failed", None), row(21.0, "cancelled", 0.8)]
    rows += [row(22.0, "cancelled", None, 0.75), row(23.0, "cancelled", None)]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(each.as_json()) + "\n" for each in rows))
    assert list(read_live_rows(path)) == rows
    run, notes = read_live_run(path)
    assert len(run.requests) == 12
    assert [request.cancelled_after_s for request in run.requests] == [None] * 11 + [0.25]
    assert run.ttft_s[:10] == pytest.approx(0.25)  # from being sent, not from submit
    assert run.hit_tokens is not None
    assert run.hit_tokens.tolist() == [2] * 10 + [-1] * 2
    assert notes == ["1 of 14 requests were cancelled and are left out", "1 of 14 requests were failed and are left out"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ttft_s": 0.2}, "before the request was sent: two clocks"),
        ({"arrived_at_s": 0.5}, "before the request was submitted: two clocks"),
        ({"e2e_s": 0.6}, "before the first token"),
        ({"cached_tokens": 99}, "exceed the prompt's 9"),
        ({"outcome": "fine"}, "outcome"),
        ({"prompt": [["q", -1]]}, "tokens"),
        ({"colour": 1}, "colour"),
        ({"ttft_s": "soon"}, "must be a number"),
    ],
)
def test_a_log_with_skewed_clocks_or_other_nonsense_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    good = LiveRow(
        arrived_at_s=1.3, submitted_at_s=1.0, prompt=(Segment("q", 9),), output=Segment("a", 3), outcome="ok", ttft_s=0.7, e2e_s=0.9
    )
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(good.as_json()) + "\n" + json.dumps(good.as_json() | change) + "\n")
    with pytest.raises(InputError, match=says) as caught:
        list(read_live_rows(path))
    assert f"{path}:2" in str(caught.value)


# --- measuring a server


def measured(server: FakeServer, points: list[Point]) -> list[Any]:
    """Timings, or what went wrong, of each point; the runner has a loop of its own, so it runs in a thread."""

    async def run(server: FakeServer) -> list[Any]:
        def go() -> list[Any]:
            info = ServerInfo(context_tokens=4096, slots=4)
            runner = ServerRunner(Target(address=server.address, api="llamacpp", timeout_s=2.0), info, TokenBook())
            found: list[Any] = []
            for point in points:
                try:
                    found.append(
                        runner.why_not(point) or runner.time(point, Patience(warm_ups=1, least=3, most=3), float("inf"))[0]
                    )
                except PointFailed as error:
                    found.append(str(error))
            runner.close()
            return found

        return await asyncio.to_thread(go)

    return against(server, run)


def test_a_server_is_measured_over_http() -> None:
    server = FakeServer()
    points = [Point(kind="prefill", new_tokens=n, cached_tokens=c) for n, c in ((64, 0), (16, 256), (1, 512))]
    points += [Point(kind="decode", batch=b, cached_tokens=100) for b in (1, 3)]
    for timing in measured(server, points):
        assert 1e-3 < timing.median_s < 0.2
        assert timing.repeats == 3
    prompts = [len(prompt) for prompt in server.prompts]
    assert prompts.count(272) == prompts.count(513) == 4  # one warm-up and three repeats
    assert prompts.count(256) == prompts.count(512) == 1  # primed once


def test_what_a_server_cannot_do_is_named() -> None:
    points = [
        Point(kind="prefill", new_tokens=64, cached_tokens=5000),
        Point(kind="decode", batch=8, cached_tokens=64),
        Point(kind="copy", new_tokens=16, direction="to host"),
        Point(kind="prefill", new_tokens=64),
    ]
    said = measured(FakeServer(lambda number: "500"), points)
    assert said[:3] == [
        "it is longer than the server's context",
        "the server has fewer slots",
        "a server does not tell its copies",
    ]
    assert said[3].startswith("the server failed: HTTP 500")


class Forgetful(FakeServer):
    """Caches nothing."""

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.prompts.clear()
        await super()._answer(reader, writer)


def test_a_prefix_that_was_not_cached_is_no_point() -> None:
    said = measured(Forgetful(), [Point(kind="prefill", new_tokens=64, cached_tokens=128)])
    assert said == ["of 128 tokens primed, 0 were cached"]


def test_prompt_tokens_are_as_many_as_the_segments_say() -> None:
    prompt = (Segment("a", 7), Segment("b", 0), Segment("c", 12))
    assert len(TokenBook().ids(prompt)) == prompt_tokens(prompt)
