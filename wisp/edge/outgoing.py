"""Which drafts were sent, and in which epochs. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence

from wisp.core.drafts import DraftBlock
from wisp.edge.tree import Node, Tree


class Outgoing:
    """Numbers the epochs of one draft stream. Each is a path of the tree that is only extended."""

    def __init__(self) -> None:
        self.epoch = 1  # the live one: it agrees with what is committed
        self.time_s = 0.0  # spent on drafts since the last block
        self._newest = 1
        self._parents: dict[int, int] = {}  # of the forks that began since the last root

    def begin_epoch(self) -> None:
        """From the committed text on, with the drafts at hand if there are any."""
        self._newest += 1
        self.epoch = self._newest
        self.time_s = 0.0
        self._parents.clear()

    def follow(self, siblings: Sequence[Node], child: Node) -> None:
        """The text goes on with one of the candidates."""
        if child.epoch:
            self.epoch = child.epoch
        elif any(node.epoch == self.epoch for node in siblings):
            self.begin_epoch()  # the live epoch goes on with another, and the child was not sent

    def take_block(
        self, tree: Tree, block_tokens: int, *, complete: bool, rests: bool
    ) -> DraftBlock | None:
        """What is to be sent now, of the likeliest path and of forks, in one message.

        `complete`: no more of the likeliest path will come before a verdict. `rests`: nor will
        anything else.
        """
        unsent = [node for node in tree.main() if not node.epoch]
        if unsent and len(unsent) < block_tokens and not complete:
            return None  # forks wait with it: one message is less than two
        num_forked = sum(node.drafted and not node.epoch for node in tree.nodes()) - len(unsent)
        if not unsent and (num_forked == 0 or (num_forked < block_tokens and not rests)):
            return None
        block = self._block(self.epoch, unsent, tree.tip().position + 1)
        forks = self._forks(tree)
        time_s, self.time_s = self.time_s, 0.0
        return DraftBlock(
            epoch=block.epoch,
            position=block.position,
            tokens=block.tokens,
            acceptance=block.acceptance,
            draft_time_s=time_s,
            complete=complete,
            parent=block.parent,
            forks=forks,
        )

    def _forks(self, tree: Tree) -> list[DraftBlock]:
        """What is unsent of each fork; parents first. The likeliest path is sent already."""
        found = []
        paths = [(tree.root, self.epoch)]  # where each begins, and its epoch
        for node, epoch in paths:  # grows while it is walked
            while node.children:
                for fork in node.children[1:]:
                    if fork.children:
                        paths.append((fork, self._epoch_of(fork, epoch)))
                        chain = [fork]
                        while chain[-1].children:
                            chain.append(chain[-1].children[0])
                        if unsent := [each for each in chain if not each.epoch]:
                            found.append(self._block(paths[-1][1], unsent, unsent[0].position))
                node = node.children[0]
        return found

    def _epoch_of(self, fork: Node, parent: int) -> int:
        if not fork.epoch:
            self._newest += 1
            self._parents[self._newest] = parent
            return self._newest
        return fork.epoch

    def _block(self, epoch: int, nodes: Sequence[Node], end: int) -> DraftBlock:
        """`end`: where the epoch ends, if there are no nodes."""
        for node in nodes:
            node.sent(epoch)
        return DraftBlock(
            epoch=epoch,
            position=nodes[0].position if nodes else end,
            tokens=[node.token for node in nodes],
            acceptance=[node.acceptance for node in nodes],
            parent=self._parents.get(epoch, 0),
        )
