"""Nested embedding spaces: one table whose prefixes are the spaces, d_1 ⊂ d_2 ⊂ … ⊂ d_N, and the product of two sides' soft selections.

Every space is padded with zeros to the common width (Eq. 1 with that constant map), so Eq. 7's soft selection of a row multiplies its
block j, the dimensions between d_(j-1) and d_j, by A_j = Σ_{n ≥ j} α_n: the probability that the dimension is used when a space is
drawn by α. The product of two sides is Σ_j A_j B_j ⟨p_j, q_j⟩: a small space of one side meets the prefix of a large one of the other.

Separate tables (`nested` false) are the other layout: a block is a whole space of d_n numbers, side by side in the row, and meets only the
same space of the other side: A_n = α_n, and the product is Σ_n α_n β_n ⟨p_n, q_n⟩.

Shape legend: B interactions, N spaces and blocks, D numbers of a row: d_N nested, Σ d_n separate.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Self

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.records import FloatArray


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Where each block of a row begins, and how weights of spaces become uses of blocks.

    Attributes:
        dims: [N] columns before the end of each block; nested: d_1 < … < d_N.
        nested: whether a space is a prefix, or a block.
    """

    dims: tuple[int, ...]
    nested: bool = True

    @classmethod
    def of_spaces(cls, dims: tuple[int, ...], *, nested: bool) -> Self:
        """The blocks of spaces with these dimensions."""
        return cls(dims=dims if nested else tuple(accumulate(dims)), nested=nested)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """[N] first column of each block."""
        return np.array((0, *self.dims[:-1]), dtype=np.int64)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """[N] column behind each block."""
        return np.array(self.dims, dtype=np.int64)

    @cached_property
    def sizes(self) -> FloatArray:
        """[N] dimensions of each block."""
        return np.diff(np.array((0, *self.dims), dtype=np.float64))

    def bounds(self, block: int) -> slice:
        """The block's columns."""
        return slice(0 if block == 0 else self.dims[block - 1], self.dims[block])

    def sums(self, values_BD: FloatArray) -> FloatArray:
        """[..., B, N] sums over each block's columns; one row's sums do not depend on the other rows."""
        return np.add.reduceat(values_BD, self.starts, axis=-1)

    def use_of(self, weights_BN: FloatArray) -> FloatArray:
        """[B, N] weights of spaces to uses of blocks: A_j = Σ_{n ≥ j} α_n, so that A_1 = 1; separate: A_n = α_n."""
        if not self.nested:
            return weights_BN
        return np.ascontiguousarray(np.cumsum(weights_BN[:, ::-1], axis=1)[:, ::-1])

    def weights_gradient(self, use_gradient_BN: FloatArray) -> FloatArray:
        """∂L/∂α_n = Σ_{j ≤ n} ∂L/∂A_j, the transpose of `use_of`; separate: ∂L/∂A_n."""
        return np.cumsum(use_gradient_BN, axis=1) if self.nested else use_gradient_BN
