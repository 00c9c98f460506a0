"""An SGLang engine in the slowest obvious way: token lists in the token-by-token tree, one step at a time.

Written from the rules in the docstring of ``simcache.scheduler.sglang``; shares no code with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .token_tree import TokenTree


@dataclass(eq=False)
class Job:
    row: int
    tokens: list
    prompt: int
    output: int
    kv: int = 0  # tokens with KV
    sampled: int = 0
    held: object = None
    in_tree: int = 0
    counted: int = 0
    hit_tokens: int | None = None
    resume: list = field(default_factory=list)
    first_scheduled: int | None = None
    first_token: int | None = None
    finish: int | None = None
    preemptions: int = 0

    @property
    def known(self):
        return self.prompt + self.sampled


def run(requests, arrival_steps, *, capacity, page, seats, chunk, lpm=False, abort_steps=None, policy="lru", sorted_queue=128):
    """Lists (hit, first scheduled, first token, finish, preemptions, resume hits) per request, and the tree."""
    tree = TokenTree(page, capacity, policy)
    jobs = []
    for row, request in enumerate(requests):
        space = (request.organisation, request.salt)
        prompt = [(space, s.key, i) for s in request.prompt for i in range(s.tokens)] or [("start", row)]
        answer = [(space, request.output.key, i) for i in range(request.output.tokens)]
        jobs.append(Job(row, prompt + answer, len(prompt), len(answer)))
    todo = sorted(jobs, key=lambda job: (arrival_steps[job.row], job.row))
    waiting: list[Job] = []
    decoding: list[Job] = []
    cut: Job | None = None
    batch: list[tuple[Job, int]] = []
    full = False
    ratio, fallen = 0.7, 0
    step = 0

    def up(tokens):
        return -(-tokens // page) * page

    def evictable():
        total, stack = 0, [tree.root]
        while stack:
            node = stack.pop()
            stack += node.children
            total += 0 if node.locks else len(node.tokens)
        return total

    def want(tokens):
        if tokens > tree.free:
            tree.evict(tokens - tree.free)

    def checkpoint(job, upto):
        whole = upto // page * page
        had = tree.insert(job.tokens[:upto], 0, job.counted)
        prompt_end = job.prompt // page * page
        if 0 < prompt_end < whole:
            tree.insert(job.tokens[:prompt_end], 1, prompt_end)
        tree.free += had - job.in_tree
        job.in_tree = whole
        job.counted = max(job.counted, whole)
        leaf, found = tree.match(job.tokens[:upto])
        assert found == whole
        tree.lock(job.held, -1)
        tree.lock(leaf, 1)
        job.held = leaf

    def give_back(job):
        tree.free += up(job.kv) - job.in_tree
        tree.lock(job.held, -1)
        job.held, job.in_tree, job.counted = None, 0, 0

    def leave(job):
        nonlocal full
        checkpoint(job, job.kv)
        give_back(job)
        full = False

    def rest(job):
        return min(job.output - job.sampled, 4096)

    while todo or waiting or decoding or cut:
        if not (waiting or decoding or cut):
            step = max(step, arrival_steps[todo[0].row])
        while todo and arrival_steps[todo[0].row] <= step:
            job = todo.pop(0)
            if job.prompt + job.output + page < capacity // page * page:
                waiting.append(job)
        for job in jobs:
            if abort_steps is not None and abort_steps[job.row] == step:
                if job in waiting:
                    waiting.remove(job)
                    job.finish = step
                elif job in decoding or job is cut:
                    if job is cut:
                        cut = None
                    else:
                        decoding.remove(job)
                    leave(job)
                    job.finish = step
        if not (waiting or decoding or cut):
            continue
        batch.clear()
        if cut or (waiting and not full):
            if len(decoding) >= seats and not cut:
                full = True
            else:
                if lpm and len(waiting) <= sorted_queue:
                    found = {job: tree.match(job.tokens[: job.known])[1] for job in waiting}
                    last, firsts = set(), []
                    for job in waiting:
                        beginning = job.tokens[:32]
                        if found[job] <= 32 and job.known >= 32:
                            if beginning in firsts:
                                last.add(job.row)
                            else:
                                firsts.append(beginning)
                    waiting.sort(key=lambda j: 1 if j.row in last else -min(found[j], j.known - 1))
                left = chunk
                promised = sum(rest(job) for job in decoding) * max(ratio - (0.7 - 0.7 * 0.14) / 600 * fallen, 0.7 * 0.14)

                def put(job):
                    nonlocal left, promised, cut
                    missing = job.known - job.kv
                    if up(missing) <= left:
                        count, more = missing, max(rest(job), 0)
                    else:
                        count, more = left // page * page, 0
                        cut = job
                    batch.append((job, count))
                    left -= up(count)
                    promised += up(count) + more + page

                if cut:
                    going_on, cut = cut, None
                    put(going_on)
                while waiting:
                    if len(batch) >= seats - len(decoding):
                        full = True
                        break
                    job = waiting[0]
                    node, hit = tree.match(job.tokens[: job.known - 1])
                    tree.lock(node, 1)
                    room = tree.free + evictable() - promised
                    if job.known - hit + max(rest(job), 0) + page >= room:
                        tree.lock(node, -1)
                        full = True
                        break
                    if up(job.known - hit) > left and left < page:
                        tree.lock(node, -1)
                        break
                    waiting.pop(0)
                    job.held, job.kv, job.in_tree = node, hit, hit
                    if job.hit_tokens is None:
                        job.hit_tokens, job.first_scheduled = hit, step
                    else:
                        job.resume.append(hit)
                    put(job)
                    if tree.free + evictable() - promised <= 0:
                        full = True
                        break
                    if left <= 0:
                        break
        if batch:
            want(sum(count for _, count in batch) + (page * len(batch) if page > 1 else 0))
            for job, count in batch:
                tree.free -= up(job.kv + count) - up(job.kv)
                job.kv += count
            assert tree.free >= 0
            if not decoding:
                full = False
            ended = []
            for job, _ in batch:
                if job is cut:
                    checkpoint(job, job.kv)
                    full = False
                    continue
                job.sampled += 1
                if job.first_token is None:
                    job.first_token = step
                if job.sampled < job.output:
                    checkpoint(job, job.kv)
                    decoding.append(job)
                else:
                    ended.append(job)
            for job in ended:
                job.finish = step
                leave(job)
        elif decoding:
            pages = sum(job.kv % page == 0 for job in decoding)
            want(pages * page)
            if tree.free < pages * page:
                order = sorted(decoding, key=lambda job: (job.sampled, -job.prompt), reverse=True)
                while len(order) > 1:
                    job = order.pop()
                    decoding.remove(job)
                    give_back(job)
                    job.kv = 0
                    want(len(order) * 20)
                    job.preemptions += 1
                    waiting.append(job)
                    pages = sum(job.kv % page == 0 for job in decoding)
                    want(pages * page)
                    if tree.free >= pages * page:
                        break
                ratio = min(1.0, (sum(j.sampled for j in order) + 20 * len(order)) / (sum(j.output for j in order) + 1))
                fallen = 0
                full = False
            else:
                fallen += 1
            want(len(decoding) * page)
            for job in list(decoding):
                if job.kv % page == 0:
                    tree.free -= page
                job.kv += 1
                job.sampled += 1
            assert tree.free >= 0
            for job in list(decoding):
                if job.sampled >= job.output:
                    decoding.remove(job)
                    job.finish = step
                    leave(job)
        if not (waiting or decoding or cut):
            ratio, fallen = 0.7, 0
        step += 1
    columns = ("hit_tokens", "first_scheduled", "first_token", "finish", "preemptions", "resume")
    return {name: [getattr(job, name) for job in jobs] for name in columns}, tree
