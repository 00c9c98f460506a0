"""A vLLM V1 engine in the slowest obvious way: one object per block, one token identity per token, one step at a time.

Written from the rules in the docstrings of ``simcache.cache.block_pool`` and ``simcache.scheduler.vllm``; shares no code with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from simcache.prompt import Request


class Block:
    def __init__(self) -> None:
        self.key: tuple | None = None
        self.refs = 0


class Pool:
    def __init__(self, blocks: int, *, prepend: bool = True) -> None:
        self.queue = [Block() for _ in range(blocks)]
        self.by_key: dict[tuple, list[Block]] = {}
        self.prepend = prepend
        self.evicted = 0

    def lookup(self, keys: list[tuple]) -> list[Block]:
        hits = []
        for key in keys:
            if not self.by_key.get(key):
                break
            hits.append(self.by_key[key][0])
        return hits

    def touch(self, blocks: list[Block]) -> None:
        for block in blocks:
            if block.refs == 0:
                self.queue.remove(block)
            block.refs += 1

    def pop(self, count: int) -> list[Block]:
        popped = self.queue[:count]
        del self.queue[:count]
        for block in popped:
            if block.key is not None:
                self.by_key[block.key].remove(block)
                block.key = None
                self.evicted += 1
            block.refs = 1
        return popped

    def set_key(self, block: Block, key: tuple) -> None:
        if block.key is None:
            block.key = key
            self.by_key.setdefault(key, []).append(block)

    def free(self, blocks: list[Block]) -> None:
        for block in reversed(blocks):
            block.refs -= 1
            if block.refs == 0:
                if block.key is None and self.prepend:
                    self.queue.insert(0, block)
                else:
                    self.queue.append(block)


@dataclass(eq=False)
class Sequence:
    row: int
    request: Request
    tokens: list = field(default_factory=list)
    keys: list = field(default_factory=list)
    blocks: list = field(default_factory=list)
    computed: int = 0
    sampled: int = 0
    arrival: int = 0
    hit_tokens: int | None = None
    resume: list = field(default_factory=list)
    first_scheduled: int | None = None
    first_token: int | None = None
    finish: int | None = None
    preemptions: int = 0

    @property
    def known(self) -> int:
        return len(self.prompt) + self.sampled

    def prepare(self, size: int) -> None:
        self.prompt = [(s.key, i) for s in self.request.prompt for i in range(s.tokens)] or [("start", self.row)]
        self.tokens = self.prompt + [(self.request.output.key, i) for i in range(self.request.output.tokens)]
        salt = (self.request.organisation, self.request.salt)
        self.keys = [(salt, *self.tokens[: (i + 1) * size]) for i in range(len(self.tokens) // size)]


def run(
    requests,
    arrival_steps,
    *,
    blocks,
    size,
    seats,
    budget,
    abort_steps=None,
    priority=False,
    threshold=0,
    watermark=0.0,
    at_schedule=True,
    prepend=True,
):
    """Lists (hit, first scheduled, first token, finish, preemptions, resume hits) per request, and the pool."""
    pool = Pool(blocks, prepend=prepend)
    sequences = [Sequence(row, request) for row, request in enumerate(requests)]
    for sequence in sequences:
        sequence.prepare(size)
    todo = sorted(sequences, key=lambda q: (arrival_steps[q.row], q.row))
    waiting: list[Sequence] = []
    running: list[Sequence] = []
    reserve = int(watermark * (blocks + 1))
    step = 0

    def order(q):
        return (q.request.priority, q.arrival)

    def hash_until(q, tokens):
        for i in range(min(tokens // size, len(q.blocks))):
            pool.set_key(q.blocks[i], q.keys[i])

    def free(q):
        pool.free(q.blocks)
        q.blocks = []

    while todo or waiting or running:
        if not waiting and not running:
            step = max(step, arrival_steps[todo[0].row])
        while todo and arrival_steps[todo[0].row] <= step:
            q = todo.pop(0)
            q.arrival = q.row if not priority else len(requests) - len(todo)
            most = len(q.prompt) + max(0, q.request.output.tokens - 1)
            if -(-most // size) <= blocks:
                waiting.append(q)
        if priority:
            waiting.sort(key=order)
        for q in list(sequences):
            if abort_steps is not None and abort_steps[q.row] == step and (q in waiting or q in running):
                if q in running:
                    running.remove(q)
                    free(q)
                else:
                    waiting.remove(q)
                q.finish = step
        if not waiting and not running:
            continue
        left = budget
        capped = threshold > 0 and len(running) + len(waiting) > 1
        chunks: dict[Sequence, int] = {}
        preempted = False
        i = 0
        while i < len(running) and left > 0:
            q = running[i]
            count = q.known - q.computed
            if capped:
                count = min(count, threshold)
            count = min(count, left)
            need = -(-(q.computed + count) // size) - len(q.blocks)
            gone = False
            while need > len(pool.queue):
                victim = max(running, key=order) if priority else running[-1]
                if victim in chunks:
                    left += chunks.pop(victim)
                    i -= 1
                running.remove(victim)
                free(victim)
                victim.computed = 0
                victim.preemptions += 1
                waiting.insert(0, victim)
                if priority:
                    waiting.sort(key=order)
                preempted = True
                if victim is q:
                    gone = True
                    break
            if gone:
                if priority:
                    continue
                break
            q.blocks += pool.pop(need)
            if at_schedule:
                hash_until(q, q.computed + count)
            chunks[q] = count
            left -= count
            i += 1
        while not preempted and waiting and left > 0 and len(running) < seats:
            q = waiting[0]
            hits = pool.lookup(q.keys[: (q.known - 1) // size])
            count = q.known - len(hits) * size
            if capped:
                count = min(count, threshold)
            count = min(count, left)
            need = -(-q.known // size) - len(hits) + sum(b.refs == 0 for b in hits) + (reserve if running else 0)
            if need > len(pool.queue):
                break
            waiting.pop(0)
            pool.touch(hits)
            q.computed = len(hits) * size
            q.blocks = hits + pool.pop(-(-(q.computed + count) // size) - len(hits))
            if at_schedule:
                hash_until(q, q.computed + count)
            if q.hit_tokens is None:
                q.hit_tokens, q.first_scheduled = q.computed, step
            else:
                q.resume.append(q.computed)
            running.append(q)
            chunks[q] = count
            left -= count
        for q in list(running):
            if q not in chunks:
                continue
            q.computed += chunks[q]
            hash_until(q, q.computed)
            if q.computed == q.known:
                q.sampled += 1
                if q.sampled == 1:
                    q.first_token = step
                if q.sampled >= q.request.output.tokens:
                    q.finish = step
                    running.remove(q)
                    free(q)
        step += 1
    columns = ("hit_tokens", "first_scheduled", "first_token", "finish", "preemptions", "resume")
    return {name: [getattr(q, name) for q in sequences] for name in columns}, pool
