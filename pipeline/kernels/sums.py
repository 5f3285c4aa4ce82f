"""Sums of products that the processor can take eight at a time, in an order that is written down.

Without fastmath LLVM may not reorder a sum, so a plain loop runs one addition after the other. Here element k goes to partial sum k mod 8,
and the eight are added pairwise at the end; what is left over of the length comes last, one by one. All arithmetic is float64.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from autoemb_pipeline.kernels.compiling import helper

LANES = 8
_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_Array = NDArray[Any]


def _partial_sums(products: Sequence[tuple[int, int]]) -> Callable[[_Array, _Array, int, int], tuple[float, ...]]:
    """An intrinsic: from (x, y, start, groups) to 8 partial sums of each product over x[start : start + 8 * groups] and y's.

    products: of which two of (x, y) each product is. Vectors of eight float64 are spelled out, for numba leaves LLVM's vectoriser of
    straight-line code off.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def partial(typing_context: Any, x: Any, y: Any, start: Any, groups: Any) -> Any:  # noqa: ARG001
        signature = types.UniTuple(  # type: ignore[attr-defined]
            types.float64, LANES * len(products)
        )(x, y, types.intp, types.intp)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            arrays = [cgutils.create_struct_proxy(t)(context, builder, a) for t, a in zip(signature.args[:2], arguments[:2], strict=True)]
            sums = [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES)) for _ in products]

            def load(which: int, position: Any) -> Any:
                number = signature.args[which].dtype
                vector = ir.VectorType(context.get_data_type(number), LANES)
                pointer = builder.bitcast(builder.gep(arrays[which].data, [position]), vector.as_pointer())
                loaded = builder.load(pointer, align=number.bitwidth // 8)
                return loaded if number == types.float64 else builder.fpext(loaded, _VECTOR)

            with cgutils.for_range(builder, arguments[3]) as loop:
                position = builder.add(arguments[2], builder.mul(loop.index, ir.Constant(loop.index.type, LANES)))
                values = [load(0, position), load(1, position)]
                for total, (a, b) in zip(sums, products, strict=True):
                    builder.store(builder.fadd(builder.load(total), builder.fmul(values[a], values[b])), total)
            lanes = [ir.Constant(ir.IntType(32), lane) for lane in range(LANES)]
            return context.make_tuple(
                builder, signature.return_type, [builder.extract_element(builder.load(s), lane) for s in sums for lane in lanes]
            )

        return signature, generate

    return partial  # type: ignore[no-any-return]


_one_product = _partial_sums([(0, 1)])
_three_products = _partial_sums([(0, 1), (0, 0), (1, 1)])


@helper
def _added(s: tuple[float, ...]) -> float:
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))


@helper
def dot(x: _Array, y: _Array, start: int, end: int) -> float:
    """Σ x_k y_k over start ≤ k < end of two contiguous arrays, float32 or float64."""
    groups = (end - start) // LANES
    total = _added(_one_product(x, y, start, groups))
    for k in range(start + LANES * groups, end):
        total += np.float64(x[k]) * np.float64(y[k])
    return total


@helper
def dots(x: _Array, y: _Array, start: int, end: int) -> tuple[float, float, float]:
    """Σ x_k y_k, Σ x_k² and Σ y_k², each as `dot`, in one pass."""
    groups = (end - start) // LANES
    s = _three_products(x, y, start, groups)
    both, left, right = _added(s[:8]), _added(s[8:16]), _added(s[16:])
    for k in range(start + LANES * groups, end):
        a, b = np.float64(x[k]), np.float64(y[k])
        both += a * b
        left += a * a
        right += b * b
    return both, left, right
