"""A bounded uniform sample of all earlier interactions, for replayed validation (paper, Algorithm 1, line 2)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoemb_pipeline.errors import CheckpointError
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.initial import seed_of
from autoemb_pipeline.learners.common.packing import pack_strings, read, unpack_strings
from autoemb_pipeline.learners.common.tensors import array_of
from autoemb_pipeline.records import FloatArray, Labels, LearnerInputs, SideContext

PREFIX = "reservoir"


class _Side:
    """Ids of one side by slot, and the count of each such id now; as many ids as slots at most."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._slots_of: dict[str, int] = {}
        self._count: dict[str, float] = {}

    def put(self, slot: int, identifier: str, count: float) -> None:
        if slot < len(self.ids):
            left = self.ids[slot]
            self._slots_of[left] -= 1
            if not self._slots_of[left]:
                del self._slots_of[left], self._count[left]
            self.ids[slot] = identifier
        else:
            self.ids.append(identifier)
        self._slots_of[identifier] = self._slots_of.get(identifier, 0) + 1
        self._count[identifier] = count

    def recount(self, ids: Sequence[str], counts: FloatArray) -> None:
        for identifier, count in zip(ids, counts.tolist(), strict=True):
            if identifier in self._count:
                self._count[identifier] = count

    def context(self, slots: Sequence[int], columns: Mapping[str, FloatArray], name: str) -> SideContext:
        return SideContext(
            count=self.counts(slots),
            previous_weights=columns[f"{name}/previous_weights"],
            previous_loss=columns[f"{name}/previous_loss"][:, 0],
            fading_loss=columns[f"{name}/fading_loss"][:, 0],
        )

    def counts(self, slots: Sequence[int]) -> FloatArray:
        return np.array([self._count[self.ids[s]] for s in slots], dtype=np.float64)


class Reservoir:
    """Vitter's algorithm R over interactions with all that predicts them again: after n of them each is held with probability capacity/n.

    A drawn interaction has its ids' popularity of now and the label statistics stored when it was predicted.

    Args:
        capacity: interactions held at most.
        seed: of the choices; the generator is this reservoir's own.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity = capacity
        self.seen = 0
        self._generator = torch.Generator().manual_seed(seed_of(seed, PREFIX))
        self._users, self._items = _Side(), _Side()
        self._columns: dict[str, NDArray[np.float64]] = {}

    def __len__(self) -> int:
        return len(self._users.ids)

    @property
    def held(self) -> list[tuple[str, str]]:
        """(user id, item id) by slot."""
        return list(zip(self._users.ids, self._items.ids, strict=True))

    def add(self, inputs: LearnerInputs, labels: Labels, rows: NDArray[np.int64]) -> None:
        """Offers the named interactions of a mini-batch in their order, and renews the counts of ids held already."""
        user_counts, item_counts = inputs.users.count + 1.0, inputs.items.count + 1.0
        self._users.recount(inputs.user_ids, user_counts)
        self._items.recount(inputs.item_ids, item_counts)
        new = _columns_of(inputs, labels)
        if not self._columns:
            self._columns = {name: np.zeros((self.capacity, column.shape[1])) for name, column in new.items()}
        last_user = dict(zip(inputs.user_ids, user_counts.tolist(), strict=True))
        last_item = dict(zip(inputs.item_ids, item_counts.tolist(), strict=True))
        uniform = torch.rand(len(rows), generator=self._generator, dtype=torch.float64).tolist()
        held, row_of_slot = len(self), dict[int, int]()
        for row, unit in zip(rows.tolist(), uniform, strict=True):
            self.seen += 1
            slot = held if held < self.capacity else int(unit * self.seen)
            if slot >= self.capacity:
                continue
            held += slot == held
            row_of_slot[slot] = row
            self._users.put(slot, inputs.user_ids[row], last_user[inputs.user_ids[row]])
            self._items.put(slot, inputs.item_ids[row], last_item[inputs.item_ids[row]])
        for name, column in new.items():
            self._columns[name][list(row_of_slot)] = column[list(row_of_slot.values())]

    def sample(self, size: int) -> tuple[LearnerInputs, Labels] | None:
        """Up to `size` distinct slots, uniformly; None while nothing is held."""
        if not len(self):
            return None
        slots = torch.randperm(len(self), generator=self._generator)[:size].tolist()
        c = {name: column[slots] for name, column in self._columns.items()}
        inputs = LearnerInputs(
            user_ids=[self._users.ids[s] for s in slots],
            item_ids=[self._items.ids[s] for s in slots],
            features=c["features"],
            global_loss=1.0,  # losses are stored relative to the global loss of their time
            users=self._users.context(slots, c, "users"),
            items=self._items.context(slots, c, "items"),
            offset=c.get("offset"),
        )
        return inputs, Labels(binary=c["binary"][:, 0], classes=c["classes"][:, 0].astype(np.int64))

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything held, and the generator's state."""
        slots = range(len(self))
        out = {f"{PREFIX}/seen": np.array(self.seen, dtype=np.int64), f"{PREFIX}/generator": array_of(self._generator.get_state())}
        for name, side in (("users", self._users), ("items", self._items)):
            out |= pack_strings(f"{PREFIX}/{name}", side.ids)
            out[f"{PREFIX}/{name}/counts"] = side.counts(slots)
        return out | {f"{PREFIX}/column/{name}": c[: len(self)].copy() for name, c in self._columns.items()}

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        self.seen = int(read(state, f"{PREFIX}/seen"))
        self._generator.set_state(torch.from_numpy(read(state, f"{PREFIX}/generator")))
        self._users, self._items = _Side(), _Side()
        for name, side in (("users", self._users), ("items", self._items)):
            counts = read(state, f"{PREFIX}/{name}/counts").tolist()
            for slot, (identifier, count) in enumerate(zip(unpack_strings(f"{PREFIX}/{name}", state), counts, strict=True)):
                side.put(slot, identifier, count)
        start = f"{PREFIX}/column/"
        self._columns = {}
        for name in (n.removeprefix(start) for n in state if n.startswith(start)):
            stored = read(state, start + name)
            if len(stored) > self.capacity:
                raise CheckpointError(
                    f"the checkpoint's reservoir holds {len(stored)} interactions, this one at most {self.capacity}",
                    why="it is of another configuration",
                    remedy="start with the options it was made with",
                )
            self._columns[name] = np.zeros((self.capacity, stored.shape[1]))
            self._columns[name][: len(stored)] = stored


def _columns_of(inputs: LearnerInputs, labels: Labels) -> dict[str, FloatArray]:
    """Everything but ids and counts, [B, n] each; losses on the scale of the global loss."""
    size = len(inputs.user_ids)
    scale = inputs.global_loss if inputs.global_loss > 0 else np.nan
    columns = {
        "features": inputs.features,
        "binary": labels.binary,
        "classes": labels.classes.astype(np.float64),
        **({} if inputs.offset is None else {"offset": inputs.offset}),
    }
    for name, side in (("users", inputs.users), ("items", inputs.items)):
        columns[f"{name}/previous_weights"] = side.previous_weights
        columns[f"{name}/previous_loss"] = side.previous_loss / scale
        columns[f"{name}/fading_loss"] = side.fading_loss / scale
    return {name: np.asarray(column, dtype=np.float64).reshape(size, -1) for name, column in columns.items()}
