"""SGLang's radix cache written token by token: lists of tokens, every leaf scanned at every eviction. Slow and obvious."""

from __future__ import annotations

from simcache.prompt import Request

ORDER = {
    "lru": lambda n: n.time,
    "lfu": lambda n: (n.count, n.time),
    "fifo": lambda n: n.created,
    "mru": lambda n: -n.time,
    "filo": lambda n: -n.created,
    "slru": lambda n: (1 if n.count >= 2 else 0, n.time),
    "priority": lambda n: (n.priority, n.time),
}


class TokenNode:
    def __init__(self, tokens, parent, time):
        self.tokens, self.parent, self.children = tokens, parent, []
        self.time = self.created = time
        self.count = self.locks = self.priority = 0


class TokenTree:
    def __init__(self, page, capacity, policy):
        self.page, self.capacity, self.order, self.now = page, capacity // page * page, ORDER[policy], 0
        self.free = self.capacity
        self.root = TokenNode([], None, 0)
        self.evicted = 0

    def tick(self):
        self.now += 1
        return self.now

    def step(self, node, tokens):
        """The child that starts with the next page, split where it stops agreeing; None if there is none."""
        for child in node.children:
            if tokens[: self.page] == child.tokens[: self.page] and len(tokens) >= self.page:
                same = 0
                while same < min(len(tokens), len(child.tokens)) and tokens[same] == child.tokens[same]:
                    same += 1
                same = same // self.page * self.page
                child.time = self.tick()
                return child if same == len(child.tokens) else self.split(child, same)
        return None

    def split(self, child, at):
        head = TokenNode(child.tokens[:at], child.parent, self.tick())
        head.created, head.count, head.priority, head.locks = child.created, child.count, child.priority, child.locks
        child.parent.children[child.parent.children.index(child)] = head
        child.tokens, child.parent = child.tokens[at:], head
        head.children = [child]
        return head

    def path(self, node):
        found = []
        while node is not self.root:
            found.append(node)
            node = node.parent
        return found[::-1]

    def lock(self, node, by):
        for visited in self.path(node):
            visited.locks += by

    def match(self, tokens):
        tokens = tokens[: len(tokens) // self.page * self.page]
        node, done = self.root, 0
        while (child := self.step(node, tokens[done:])) is not None:
            node, done = child, done + len(child.tokens)
        for visited in self.path(node):
            visited.time = self.tick()
        return node, done

    def insert(self, tokens, priority, counted):
        tokens = tokens[: len(tokens) // self.page * self.page]
        node, done = self.root, 0
        while (child := self.step(node, tokens[done:])) is not None:
            node, done = child, done + len(child.tokens)
            node.priority = max(node.priority, priority)
            if done > counted:
                node.count += 1
        if done < len(tokens):
            leaf = TokenNode(tokens[done:], node, self.tick())
            leaf.priority = priority
            leaf.count = 1 if len(tokens) > counted else 0
            node.children.append(leaf)
        return done

    def evict(self, want):
        freed = 0
        while freed < want:
            leaves, todo = [], [self.root]
            while todo:
                node = todo.pop()
                todo += node.children
                if node is not self.root and not node.children and not node.locks:
                    leaves.append(node)
            if not leaves:
                break
            victim = min(leaves, key=self.order)
            victim.parent.children.remove(victim)
            freed += len(victim.tokens)
        self.free += freed
        self.evicted += freed


def serve(tree: TokenTree, request: Request) -> int:
    """The recorded protocol for one request, one token at a time: match, allocate, insert, decode, insert, give back."""
    page = tree.page
    space = (request.organisation, request.salt)
    prompt = [(space, s.key, i) for s in request.prompt for i in range(s.tokens)]
    everything = prompt + [(space, request.output.key, i) for i in range(request.output.tokens - 1)]
    everything = everything[: tree.capacity]  # the answer is cut where the memory ends
    held, hit = tree.match(prompt[:-1])
    tree.lock(held, 1)
    in_tree, counted = hit, 0

    def want(tokens):
        if tokens > tree.free:
            tree.evict(tokens - tree.free)

    def checkpoint(upto):
        nonlocal counted, held, in_tree
        whole = upto // page * page
        had = tree.insert(everything[:upto], -request.priority, counted)
        prompt_end = len(prompt) // page * page
        if 0 < prompt_end < whole:
            tree.insert(everything[:prompt_end], -request.priority + 1, prompt_end)
        tree.free += had - in_tree
        in_tree = whole
        counted = max(counted, whole)
        leaf, found = tree.match(everything[:upto])
        assert found == whole
        tree.lock(held, -1)
        tree.lock(leaf, 1)
        held = leaf

    want(len(prompt) - hit + (page if page > 1 else 0))
    tree.free -= -(-len(prompt) // page) * page - hit
    if len(everything) > len(prompt):
        checkpoint(len(prompt))
    for token in range(len(prompt), len(everything)):
        want(page)
        if token % page == 0:
            tree.free -= page
    assert tree.free >= 0
    checkpoint(len(everything))
    tree.free += -(-len(everything) // page) * page - in_tree
    tree.lock(held, -1)
    return hit


def replay(requests: list[Request], page: int, capacity: int, policy: str) -> tuple[list[int], list[int]]:
    """Hits (-1: the prompt can never fit) and evicted tokens per request, in order."""
    tree = TokenTree(page, capacity, policy)
    hits, evicted = [], []
    for request in requests:
        before = tree.evicted
        fits = sum(s.tokens for s in request.prompt) <= tree.capacity
        hits.append(serve(tree, request) if fits else -1)
        evicted.append(tree.evicted - before)
    return hits, evicted
