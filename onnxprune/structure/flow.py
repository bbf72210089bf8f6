"""Who makes and who reads what, and which part of a graph only serves one tensor."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from ..core.analysis import Analysis
from ..core.declared import ShapeSource
from ..core.scopes import captured_names

_COPIES = {"Identity", "Cast"}


class Flow:
    """The data flow of an analysed graph, whose nodes are in topological order.

    Attributes:
        reads: tensors that each node reads, bodies included, each once.
        makes: tensors that each node makes.
        readers: nodes that read each tensor.
        maker: the node that makes each tensor.
        bound: graph outputs.
        dynamic: tensors that depend on a graph input; all others are constants.
        first_term: the earliest made of the terms that a sum of sums consists of; else the tensor.
    """

    def __init__(self, analysis: Analysis) -> None:
        """Look once at every node."""
        nodes = analysis.graph.nodes
        self._nodes, self._dtypes = nodes, analysis.shapes.dtypes
        self.reads = [[*filter(None, {*n.input, *captured_names(n)})] for n in nodes]
        self.makes = [[*filter(None, n.output)] for n in nodes]
        self.readers: dict[str, list[int]] = {}
        self.maker = {name: i for i, names in enumerate(self.makes) for name in names}
        self.bound = {v.name for v in analysis.graph.outputs}
        self.dynamic = {v.name for v in analysis.graph.shell.graph.input} - analysis.graph.listed
        for index, (names, made) in enumerate(zip(self.reads, self.makes, strict=True)):
            for name in names:
                self.readers.setdefault(name, []).append(index)
            if not self.dynamic.isdisjoint(names):
                self.dynamic.update(made)
        self.first_term: dict[str, str] = {}
        for record in analysis.records:
            terms = (
                [n for n in self.reads[record.index] if n in self.dynamic] if record.adds else []
            )
            if terms:
                firsts = [self.first_term.get(name, name) for name in terms]
                first = min(firsts, key=lambda name: self.maker.get(name, -1))
                self.first_term[self.makes[record.index][0]] = first
        # a Shape hands on the size of a tensor, which stays, and nothing of its values
        self._blind = {
            r.index for r in analysis.records if any(isinstance(f, ShapeSource) for f in r.fixes)
        }

    def region(self, x: str, y: str, after: int) -> set[int]:
        """Return the nodes behind index `after` that only serve y, not looking behind x.

        These are the nodes that go when y is replaced by x; nothing at all if the node that makes y
        makes another tensor that is read.
        """
        start, last = self.maker.get(x, -1), self.maker[y]
        if any(n != y and (n in self.bound or self.readers.get(n)) for n in self.makes[last]):
            return set()
        inside, seen, waiting = {last}, {start}, [-i for i in self._before(last)]
        heapify(waiting)  # backwards: whoever reads a node's tensors is decided before it
        while waiting:
            index = -heappop(waiting)
            if index in seen or index <= after:
                continue
            seen.add(index)
            if self._only_serves(index, inside):
                inside.add(index)
                for before in self._before(index):
                    heappush(waiting, -before)
        return inside

    def _before(self, index: int) -> set[int]:
        return {self.maker[name] for name in self.reads[index] if name in self.maker}

    def _only_serves(self, index: int, inside: set[int]) -> bool:
        return all(
            name not in self.bound and inside.issuperset(self.readers.get(name, ()))
            for name in self.makes[index]
        )

    def depends(self, x: str, inside: set[int]) -> set[str]:
        """Return x and the tensors of a region whose values follow from it."""
        values = {x}
        for index in sorted(inside - self._blind):
            if not values.isdisjoint(self.reads[index]):
                values.update(self.makes[index])
        return values

    def follows(self, name: str, x: str) -> bool:
        """Tell whether the values of a tensor follow from x."""
        start, waiting, seen = self.maker.get(x, -1), [name], {name}
        while waiting:
            index = self.maker.get(waiting.pop(), -1)
            if index <= start or index in self._blind:
                continue
            if x in self.reads[index]:
                return True
            waiting += [before for before in self.reads[index] if before not in seen]
            seen.update(self.reads[index])
        return False

    def entries(self, inside: set[int]) -> set[str]:
        """Return what a region reads from outside, constants left out."""
        return {
            name
            for index in inside
            for name in self.reads[index]
            if name in self.dynamic and self.maker.get(name, -1) not in inside
        }

    def reaches(self, x: str, targets: set[str], inside: set[int]) -> bool:
        """Tell whether values of any target follow from x by a way outside of a region."""
        last = max((self.maker.get(name, -1) for name in targets), default=-1)
        waiting, seen = [x], {x}
        while waiting:
            name = waiting.pop()
            if name in targets:
                return True
            for index in self.readers.get(name, ()):
                if index <= last and index not in inside and index not in self._blind:
                    waiting += [made for made in self.makes[index] if made not in seen]
                    seen.update(self.makes[index])
        return False

    def origin(self, name: str) -> str:
        """Return the tensor that this one is a copy of: behind an Identity, or a Cast to its type."""
        while (index := self.maker.get(name, -1)) >= 0:
            node = self._nodes[index]
            before = self._dtypes.get(node.input[0]) if node.input else None
            if node.op_type not in _COPIES or before is None or before != self._dtypes.get(name):
                break
            name = node.input[0]
        return name

    def only_to(self, name: str, index: int) -> bool:
        """Tell whether a tensor is read by one node and nobody else."""
        return name not in self.bound and self.readers.get(name) == [index]
