"""Protects what callers of a model see: features that it reads, classes that it gives, its vocabulary.

Axes of graph inputs and outputs stay, and so do the rows of a table that is looked up by index: who
calls the model counts on them. What the user unlocks by name may shrink. Nothing else changes in the
rules: a softmax over unlocked classes gives shares among those that are left; ids that are read for
more than the lookup are turned back into the old ones for those readers.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence

from ..core.declared import Lookup, OldIndices, Record, ShapeSource
from ..core.errors import OnnxPruneError
from ..core.faces import Face
from ..core.graph import Graph
from ..core.positions import Axis, Declarations, Space
from ..core.shapes import Shapes
from .unlock import Unlock

_FEATURES = 1  # the axis of features or classes of tensors with more than three axes
_FEW_AXES = 3  # up to here it is the last


def open_faces(
    graph: Graph,
    shapes: Shapes,
    space: Space,
    records: Sequence[Record],
    wanted: Sequence[Unlock] = (),
) -> tuple[Face, ...]:
    """Protect the interface of a graph in normal form, all but what is unlocked.

    Args:
        graph: in normal form, whose rules have run.
        shapes: of its tensors.
        space: what the rules declared; protections and couplings are added.
        records: of its nodes; readers of ids are told to read the old ones.
        wanted: what the user unlocks.

    Raises:
        OnnxPruneError: naming what does not exist or cannot shrink.
    """
    return _Opening(graph, shapes, space, records).run(wanted)


class _Opening:
    def __init__(
        self, graph: Graph, shapes: Shapes, space: Space, records: Sequence[Record]
    ) -> None:
        self.graph, self.shapes, self.space, self.records = graph, shapes, space, records
        self.ends = {"input": graph.inputs, "output": graph.outputs}
        self.lookups = [(r.index, lookup) for r in records for lookup in r.lookups]
        self.tables = {self._table(i, lookup) for i, lookup in self.lookups}

    def run(self, wanted: Sequence[Unlock]) -> tuple[Face, ...]:
        faces: list[Face] = []
        for unlock in wanted:
            faces += self._rows(unlock) if unlock.kind == "vocabulary" else [self._end(unlock)]
        faces = self._vocabularies(faces)
        chosen = {self._axis(face) for face in faces}
        self._protect_ends(chosen)
        rows = {self.space.root(self._axis(f)) for f in faces if f.kind == "vocabulary"}
        roots = {self.space.root(axis) for axis in chosen}
        for axis, reason in self.space.reserved.items():
            free = rows if axis in self.tables else roots
            if self.space.root(axis) not in free:
                self.space.protected.setdefault(axis, reason)
        return tuple(faces)

    def _protect_ends(self, chosen: set[int]) -> None:
        """Graph inputs and outputs keep their shape, but for the axes chosen."""
        for kind, values in self.ends.items():
            for value in values:
                for number, size in enumerate(self.shapes.a.get(value.name, ())):
                    axis = self.space.axis(value.name, number, size).id
                    if axis not in chosen:
                        self.space.protected.setdefault(axis, f"graph {kind} '{value.name}'")

    def _axis(self, face: Face) -> int:
        return self.space.axis(face.tensor, face.axis, self.shapes.a[face.tensor][face.axis]).id

    # -- inputs and outputs -------------------------------------------------------------------
    def _end(self, unlock: Unlock) -> Face:
        names = [value.name for value in self.ends[unlock.kind]]
        name, axis = _resolved(unlock, names)
        if not self.shapes.known(name):
            raise OnnxPruneError(f"{unlock}: the shape of '{name}' is unknown")
        shape = self.shapes.a[name]
        usual = _FEATURES if len(shape) > _FEW_AXES else len(shape) - 1
        return self._face(unlock, name, usual if axis is None else axis)

    def _face(self, unlock: Unlock, name: str, axis: int) -> Face:
        """Return the face, if it is there and has a fixed length that the list fits."""
        shape = self.shapes.a[name]
        if not shape:
            raise OnnxPruneError(f"{unlock}: '{name}' is a scalar: there is nothing to unlock")
        if not 0 <= axis < len(shape):
            raise OnnxPruneError(f"{unlock}: '{name}' has {len(shape)} axes, there is no {axis}")
        if shape[axis] != self.shapes.b[name][axis]:
            raise OnnxPruneError(f"{unlock}: axis {axis} of '{name}' has no fixed length")
        if unlock.keep is not None and unlock.keep[-1] >= shape[axis]:
            raise OnnxPruneError(
                f"{unlock}: position {unlock.keep[-1]} is to be kept, but axis {axis} of '{name}' "
                f"has {shape[axis]} positions, counted from 0"
            )
        return Face(unlock.kind, name, axis, keep=unlock.keep)

    # -- vocabularies -------------------------------------------------------------------------
    def _table(self, index: int, lookup: Lookup) -> int:
        """Return the axis that a node looks up along."""
        name = self.graph.nodes[index].input[lookup.table]
        size = self.shapes.a[name][lookup.number]
        return self.space.axis(name, lookup.number, size).id

    def _rows(self, unlock: Unlock) -> list[Face]:
        """Return a face for each copy of a table that is looked up (small ones have several)."""
        roots = {self.space.root(table) for table in self.tables}
        found: dict[str, list[tuple[str, int]]] = {}
        for name, weight in self.graph.weights.items():
            for number in range(len(weight.shape)):
                axis = self.space.find(name, number)
                if axis is not None and self.space.root(axis) in roots:
                    file_name = self.graph.origin.get(name, name)
                    found.setdefault(file_name, []).append((name, number))
        name, axis = _resolved(unlock, list(found), what="table that is looked up by index")
        places = [(tensor, n) for tensor, n in found[name] if axis in (None, n)]
        if not places:
            known = ", ".join(str(n) for n in sorted({n for _, n in found[name]}))
            raise OnnxPruneError(
                f"{unlock}: '{name}' is looked up along axis {known}, not along axis {axis}"
            )
        if unlock.keep is None:
            raise OnnxPruneError(f"{unlock}: say with --keep-rows which rows stay")
        return [self._face(unlock, tensor, number) for tensor, number in places]

    def _vocabularies(self, faces: list[Face]) -> list[Face]:
        """Find the inputs that hold rows, join tables that share them, mend other readers."""
        rows = [face for face in faces if face.kind == "vocabulary"]
        rest = [face for face in faces if face.kind != "vocabulary"]
        for face in rows:
            ids = self._ids(face)
            alike = [other for other in rest if set(other.ids).intersection(ids)]
            for other in alike:
                self._join(other, face)
                rest.remove(other)
            names = dict.fromkeys(name for part in (*(o.ids for o in alike), ids) for name in part)
            rest.append(dataclasses.replace((*alike, face)[0], ids=tuple(names)))
        for face in rest:
            for name in face.ids:
                self._follow(face, name, {self.space.root(self._axis(r)) for r in rows})
        return rest

    def _join(self, one: Face, other: Face) -> None:
        """Two tables that one input looks up in have the same rows."""
        sizes = [self.shapes.a[f.tensor][f.axis] for f in (one, other)]
        if sizes[0] != sizes[1]:
            raise OnnxPruneError(
                f"'{one.tensor}' has {sizes[0]} rows, '{other.tensor}' {sizes[1]}, and one input "
                "looks up in both: they cannot be renumbered alike"
            )
        a, b = (Axis(self._axis(f), n) for f, n in zip((one, other), sizes, strict=True))
        said = Declarations()
        said.couple(a, b)
        self.space.commit(said)

    def _ids(self, face: Face) -> tuple[str, ...]:
        """Return the graph inputs whose values are rows of a table.

        Raises:
            OnnxPruneError: if the model computes the ids of some lookup.
        """
        producers = self.graph.producers()
        inputs = {value.name for value in self.graph.inputs}
        root = self.space.root(self._axis(face))
        found: dict[str, None] = {}
        for index, lookup in self.lookups:
            if self.space.root(self._table(index, lookup)) != root:
                continue
            name = self.graph.nodes[index].input[lookup.index]
            while name in producers and self.records[producers[name]].hands_on:
                name = self.graph.nodes[producers[name]].input[0]
            if name not in inputs:
                made = producers.get(name)
                op = "a constant" if made is None else f"op {self.graph.nodes[made].op_type}"
                raise OnnxPruneError(
                    f"rows of '{face.tensor}' cannot be renumbered: '{name}' holds some, which no "
                    f"caller gives ({op} does)"
                )
            found[name] = None
        return tuple(found)

    def _follow(self, face: Face, source: str, roots: set[int]) -> None:
        """Let every reader of an input's ids but the lookups see the old ones.

        Raises:
            OnnxPruneError: if they go where that cannot be done.
        """
        consumers, outputs = self.graph.consumers(), {v.name for v in self.graph.outputs}
        axis = Axis(self._axis(face), self.shapes.a[face.tensor][face.axis])
        waiting = [source]
        while waiting:
            name = waiting.pop()
            if name in outputs:
                raise OnnxPruneError(f"'{face}': output '{name}' hands its ids on to the caller")
            for index in consumers.get(name, ()):
                record, node = self.records[index], self.graph.nodes[index]
                slots = [slot for slot, read in enumerate(node.input) if read == name]
                if not slots:
                    raise OnnxPruneError(f"'{face}': the body of '{node.name}' reads '{name}'")
                if record.hands_on and slots == [0]:
                    waiting += [o for o in node.output if o]
                    continue
                for slot in slots:
                    self._read(index, slot, axis, roots, source)

    def _read(self, index: int, slot: int, axis: Axis, roots: set[int], source: str) -> None:
        record, node = self.records[index], self.graph.nodes[index]
        for _, lookup in (entry for entry in self.lookups if entry[0] == index):
            if lookup.index == slot:
                if self.space.root(self._table(index, lookup)) in roots:
                    return
                raise OnnxPruneError(
                    f"input '{source}' also looks up in '{node.input[lookup.table]}': "
                    f"unlock vocabulary:{node.input[lookup.table]} too"
                )
        if not any(isinstance(fix, ShapeSource) for fix in record.fixes):
            record.fixes.append(OldIndices(slot, axis))


def _resolved(unlock: Unlock, names: Sequence[str], what: str = "") -> tuple[str, int | None]:
    """Tell the name that is meant from the axis that may follow it."""
    if unlock.name in names:
        return unlock.name, None
    name, _, axis = unlock.name.rpartition("@")
    if name in names and re.fullmatch(r"\d{1,9}", axis):
        return name, int(axis)
    noun = what or unlock.kind
    near = difflib.get_close_matches(unlock.name, names, n=1, cutoff=0.0)
    hint = f"; the nearest is '{near[0]}'" if near else ", the model has none"
    raise OnnxPruneError(f"{unlock}: there is no {noun} '{unlock.name}'{hint}")
