"""An engine that computes prompts before it decodes, in the slowest obvious way, over the per-block pool of the vLLM oracle.

Written from the rules in the docstring of ``simcache.scheduler.prefill_first``; shares no code with it.
"""

from __future__ import annotations

from .vllm_steps import Pool, Sequence


def run(requests, arrival_steps, *, blocks, size, seats, budget, abort_steps=None, prepend=True):
    """Lists (hit, first scheduled, first token, finish, preemptions, resume hits) per request, and the pool."""
    pool = Pool(blocks, prepend=prepend)
    sequences = [Sequence(row, request) for row, request in enumerate(requests)]
    for sequence in sequences:
        sequence.prepare(size)
    todo = sorted(sequences, key=lambda q: (arrival_steps[q.row], q.row))
    waiting: list[Sequence] = []
    running: list[Sequence] = []
    step = 0

    def free(q):
        pool.free(q.blocks)
        q.blocks = []
        q.computed = 0

    def finish_token(q):
        for i in range(min(q.computed // size, len(q.blocks))):
            pool.set_key(q.blocks[i], q.keys[i])
        q.sampled += 1
        if q.first_token is None:
            q.first_token = step
        if q.sampled >= q.request.output.tokens:
            q.finish = step
            running.remove(q)
            free(q)

    while todo or waiting or running:
        if not waiting and not running:
            step = max(step, arrival_steps[todo[0].row])
        while todo and arrival_steps[todo[0].row] <= step:
            q = todo.pop(0)
            if -(-(len(q.prompt) + max(0, q.request.output.tokens - 1)) // size) <= blocks:
                waiting.append(q)
        for q in sequences:
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
        prompts: list[Sequence] = []
        while waiting and len(running) < seats:
            q = waiting[0]
            hits = pool.lookup(q.keys[: (q.known - 1) // size])
            need = -(-q.known // size) - len(hits)
            if (prompts and q.known > left) or need + sum(b.refs == 0 for b in hits) > len(pool.queue):
                break
            waiting.pop(0)
            pool.touch(hits)
            q.blocks = hits + pool.pop(need)
            hit = len(hits) * size
            if q.hit_tokens is None:
                q.hit_tokens, q.first_scheduled = hit, step
            else:
                q.resume.append(hit)
            q.computed = hit
            running.append(q)
            prompts.append(q)
            left -= q.known - hit
        if prompts:
            for q in prompts:
                q.computed = q.known
                finish_token(q)
        else:
            decoded = []
            i = 0
            while i < len(running):
                q = running[i]
                need = -(-(q.computed + 1) // size) - len(q.blocks)
                while need > len(pool.queue):
                    victim = running.pop()
                    free(victim)
                    victim.preemptions += 1
                    waiting.insert(0, victim)
                    if victim is q:
                        break
                if q in running:
                    q.blocks += pool.pop(need)
                    decoded.append(q)
                i += 1
            for q in decoded:
                q.computed += 1
                finish_token(q)
        step += 1
    columns = ("hit_tokens", "first_scheduled", "first_token", "finish", "preemptions", "resume")
    return {name: [getattr(q, name) for q in sequences] for name in columns}, pool
