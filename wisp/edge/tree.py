"""What an edge has drafted behind the committed text: a tree of tokens. Pure: no I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from wisp.edge.predictor.base import Features
from wisp.edge.waste import Cost

_BYTE = 255  # the steps of an acceptance, in one byte of the protocol for each token
_FREE = Cost()


class Candidate(NamedTuple):
    """A token that may be the target's choice behind some other."""

    token: int
    acceptance: float  # P(the target chooses it | all before it were accepted)
    features: Features | None = None  # from which that was predicted; None: nothing to learn from


class Node:
    """A token of the tree. Its children are the candidates behind it, the likeliest first."""

    __slots__ = (
        "acceptance",
        "alive",
        "children",
        "cost",
        "cumulative",
        "drafted",
        "epoch",
        "features",
        "forked",
        "given",
        "parent",
        "position",
        "rank",
        "run",
        "token",
    )

    def __init__(self, parent: Node | None, candidate: Candidate, rank: int, position: int) -> None:
        self.parent = parent
        self.token = candidate.token
        self.features = candidate.features
        # As the wire carries it, so that both ends reckon with the same number.
        self.acceptance = math.floor(candidate.acceptance * _BYTE) / _BYTE
        self.rank = rank  # among its siblings; all but the first are alternatives
        self.cumulative: float = 1.0  # P(it is on the target's path)
        self.given: float = 1.0  # the same, given that the last alternative on its way is
        if parent:
            self.reckon(parent)
        self.position = position  # in the whole token sequence
        self.run: int = parent.run + 1 if parent and rank == 0 else 0  # firsts in a row, with it
        self.children: list[Node] = []
        self.cost = _FREE
        self.epoch = 0  # in which it was sent; 0: it was not
        self.drafted = False  # it is a draft token, and no mere candidate
        self.forked = False  # it was drafted behind an alternative, or is one
        self.alive = True  # it may still be on the target's path

    def sent(self, epoch: int) -> None:
        """In that epoch; 0: it counts as not sent."""
        self.epoch = epoch

    def reckon(self, parent: Node) -> None:
        """Its chances, from those of its parent."""
        self.cumulative = parent.cumulative * self.acceptance
        self.given = 1.0 if self.rank else parent.given * self.acceptance


class Tree:
    """The root is the last committed token. The drafter has been behind all nodes but leaves."""

    def __init__(self, position: int) -> None:
        self.root = Node(None, Candidate(-1, 1.0), 0, position)
        self.leaves = [self.root]
        self.num_forks = 0  # alternatives behind which something was drafted

    def extend(self, leaf: Node, candidates: Sequence[Candidate], cost: Cost) -> list[Node]:
        """What the drafter found behind a leaf, the likeliest first; returns the new draft tokens.

        The first is one. So is the leaf itself if it was a mere alternative: it begins a fork.
        """
        position = leaf.position + 1
        leaf.children = [
            Node(leaf, candidate, rank, position) for rank, candidate in enumerate(candidates)
        ]
        first = leaf.children[0]
        first.cost, first.drafted = cost, True
        self.leaves.remove(leaf)
        self.leaves += leaf.children
        if leaf is self.root or leaf.drafted:
            first.forked = leaf.forked and leaf is not self.root
            return [first]
        leaf.drafted = leaf.forked = first.forked = True
        self.num_forks += 1
        return [leaf, first]

    def main(self) -> Iterator[Node]:
        """The path of the likeliest candidates."""
        node = self.root
        while node.children:
            node = node.children[0]
            yield node

    def tip(self) -> Node:
        node = self.root
        while node.children:
            node = node.children[0]
        return node

    def path(self, node: Node) -> list[int]:
        """The tokens from the committed text up to the node."""
        found = []
        while node is not self.root:
            found.append(node.token)
            assert node.parent, "the node is of this tree"
            node = node.parent
        return found[::-1]

    def descend(self, child: Node) -> list[Node]:
        """A child of the root is committed; returns the draft tokens that are in vain now."""
        lost = [node for other in self.root.children if other is not child for node in _kill(other)]
        self.root.alive = False
        child.parent = None
        self._begin(child)
        return [node for node in lost if node.drafted]

    def restart(self, position: int) -> list[Node]:
        """Of all that was drafted nothing is on the target's path; returns the draft tokens."""
        lost = list(_kill(self.root))
        run = 0 if self.root.children else self.root.run
        root = Node(None, Candidate(-1, 1.0), 0, position)
        root.run = run
        self._begin(root)
        return [node for node in lost if node.drafted]

    def nodes(self) -> Iterator[Node]:
        """All but the root, parents first."""
        stack = self.root.children[::-1]
        while stack:
            node = stack.pop()
            yield node
            stack += node.children[::-1]

    def _begin(self, root: Node) -> None:
        """Of what is left: leaves, forks, and the chances now that the root is certain."""
        self.root = root
        root.cumulative = root.given = 1.0
        root.drafted = root.forked = False
        self.leaves = [] if root.children else [root]
        self.num_forks = 0
        for node in self.nodes():
            assert node.parent, "only the root has none"
            node.reckon(node.parent)
            if not node.children:
                self.leaves.append(node)
            elif node.rank:
                self.num_forks += 1
        for node in self.main():  # where it was a fork's, that has paid
            node.forked = False


def _kill(node: Node) -> Iterator[Node]:
    """The node and all behind it, none of which is alive any more."""
    stack = [node]
    while stack:
        node = stack.pop()
        node.alive = False
        yield node
        stack += node.children
