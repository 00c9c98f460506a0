"""llama.cpp's server in the slowest obvious way: a list of tokens per slot, one iteration at a time.

Written from the rules in the docstrings of ``simcache.cache.slots`` and ``simcache.scheduler.llamacpp``; shares no code with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class Job:
    row: int
    prompt: list
    answer: list
    hit_tokens: int | None = None
    first_scheduled: int | None = None
    first_token: int | None = None
    finish: int | None = None
    computed: int = 0
    sampled: int = 0


@dataclass(eq=False)
class Slot:
    tokens: list = field(default_factory=list)
    job: Job | None = None
    last_used: int = -1


def run(requests, arrival_steps, *, slots, similarity, slot_tokens, batch, abort_steps=None):
    """Lists (hit, first scheduled, first token, finish, slot's last content) per request."""
    jobs = []
    for row, request in enumerate(requests):
        salt = (request.organisation, request.salt)
        prompt = [(salt, s.key, i) for s in request.prompt for i in range(s.tokens)] or [("start", row)]
        answer = [(salt, request.output.key, i) for i in range(request.output.tokens)]
        jobs.append(Job(row, prompt, answer))
    todo = sorted(jobs, key=lambda job: (arrival_steps[job.row], job.row))
    cells = [Slot() for _ in range(slots)]
    waiting: list[Job] = []
    step = clock = 0

    def let_go(cell):
        nonlocal clock
        clock += 1
        job = cell.job
        cell.tokens = (job.prompt + job.answer)[: job.computed]
        cell.job, cell.last_used = None, clock

    while todo or waiting or any(cell.job for cell in cells):
        if not waiting and not any(cell.job for cell in cells):
            step = max(step, arrival_steps[todo[0].row])
        while todo and arrival_steps[todo[0].row] <= step:
            job = todo.pop(0)
            if slot_tokens is None or len(job.prompt) < slot_tokens:
                waiting.append(job)
        for job in jobs:
            if abort_steps is not None and abort_steps[job.row] == step:
                if job in waiting:
                    waiting.remove(job)
                    job.finish = step
                for cell in cells:
                    if cell.job is job:
                        let_go(cell)
                        job.finish = step
        if not waiting and not any(cell.job for cell in cells):
            continue
        while waiting and any(cell.job is None for cell in cells):
            job = waiting.pop(0)
            idle = [cell for cell in cells if cell.job is None]

            def common(cell, job=job):
                k = 0
                while k < min(len(cell.tokens), len(job.prompt)) and cell.tokens[k] == job.prompt[k]:
                    k += 1
                return k

            best = max(idle, key=common)
            if similarity == 0 or common(best) / len(job.prompt) <= similarity:
                oldest = min(cell.last_used for cell in idle)
                best = [cell for cell in idle if cell.last_used == oldest][-1]
            job.computed = job.hit_tokens = min(common(best), len(job.prompt) - 1)
            job.first_scheduled = step
            best.job = job
        turned_away = len(waiting)
        ended = 0
        room = batch - sum(1 for cell in cells if cell.job and cell.job.sampled)
        work = []
        for cell in cells:
            if cell.job is None:
                continue
            if cell.job.sampled:
                work.append((cell, 1))
            else:
                count = min(room, len(cell.job.prompt) - cell.job.computed)
                room -= count
                work.append((cell, count))
        for cell, count in work:
            job = cell.job
            job.computed += count
            if job.computed < len(job.prompt):
                continue
            job.sampled += 1
            if job.first_token is None:
                job.first_token = step
            full = slot_tokens is not None and job.computed == slot_tokens
            if job.sampled >= len(job.answer) or full:
                job.finish = step
                let_go(cell)
                ended += 1
        called = waiting[: min(ended, turned_away)]
        waiting[: len(called)] = called[::-1]  # each release puts the next in front of those called before
        step += 1
    return {name: [getattr(job, name) for job in jobs] for name in ("hit_tokens", "first_scheduled", "first_token", "finish")}
