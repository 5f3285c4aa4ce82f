"""How rows are multiplied, and how they learn: extended Kalman steps with one variance per row and block, for any number of fields.

logit's embedding part: s = Σ_f b_f + Σ_{f<g} Σ_j γ_fg,j A_fj A_gj ⟨r_fj, r_gj⟩. Its slope in block j of field f is d_fj = Σ_{g≠f} c_fg,j
r_gj, with c = γ A A. An interaction observes s with precision h; linearised in all rows the innovation's variance is
S = 1/h + Σ_f (v_f + Σ_j V_fj |d_fj|²), and the step is r_fj += V_fj d_fj (y-p)/(h S), b_f += v_f (y-p)/(h S). The block's variance falls by
V² |d|² / (S · min(d_j, r)).

Each block learns from the error of its own prefix: p, h and S of block j are those of the score with blocks up to j. So what blocks up to
j hold is what they would hold had there been no larger ones (but for biases and gains, which learn from the whole score), and the loss
under a prefix, known at every prediction, is the loss of the smaller embedding. |d|² follows from the products and the squared lengths, so
that rows are read once and written once.
"""

import numpy as np

from autoemb_pipeline.kernels.compiling import helper
from autoemb_pipeline.kernels.layout import ABSENT, HELD, PAIR, Bytes, Floats, Integers, Rows
from autoemb_pipeline.kernels.sums import dot, dots

SMALLEST_CURVATURE = 0.02  # of h: a confident mistake must not move a row without bound


@helper
def pair_of(f: int, g: int, fields: int) -> int:
    """Position of the pair of fields f ≠ g among all pairs in the order (0, 1), (0, 2), …, (1, 2) and so on."""
    a, b = min(f, g), max(f, g)
    return a * fields - a * (a + 1) // 2 + b - a - 1


@helper
def measure(rows: tuple[Rows, ...], held: tuple[Bytes, ...], place: Integers, ends: Integers, products: Floats, squares: Floats) -> float:
    """Products of every pair's blocks into products [P, N], squared lengths into squares [F, N]; returns the sum of the biases.

    A block that either of a pair has not is 0. at: [F] slots.
    """
    fields, spaces = len(rows), len(ends)
    if fields == PAIR:  # both lengths and the product in one pass
        start = 0
        for j in range(spaces):
            both = held[0][place[0], j] != ABSENT and held[1][place[1], j] != ABSENT
            if both:
                products[0, j], squares[0, j], squares[1, j] = dots(rows[0][place[0]], rows[1][place[1]], start, ends[j])
            else:
                products[0, j] = squares[0, j] = squares[1, j] = 0.0
            start = ends[j]
    else:
        for f in range(fields):
            start = 0
            for j in range(spaces):
                own = held[f][place[f], j] != ABSENT
                squares[f, j] = dot(rows[f][place[f]], rows[f][place[f]], start, ends[j]) if own else 0.0
                for g in range(f + 1, fields):
                    both = own and held[g][place[g], j] != ABSENT
                    products[pair_of(f, g, fields), j] = dot(rows[f][place[f]], rows[g][place[g]], start, ends[j]) if both else 0.0
                start = ends[j]
    biases = 0.0
    for f in range(fields):
        biases += rows[f][place[f], ends[-1]]
    return biases


@helper
def slope_squares(rows: tuple[Rows, ...], gates: Floats, products: Floats, squares: Floats, slopes: Floats) -> None:
    """|d_fj|² into slopes [F, N]. gates: [P, N] c_fg,j; rows: for their number, which the compiler knows."""
    fields, spaces = len(rows), squares.shape[1]
    if fields == PAIR:
        for j in range(spaces):
            c = gates[0, j] * gates[0, j]
            slopes[0, j] = c * squares[1, j]
            slopes[1, j] = c * squares[0, j]
        return
    for f in range(fields):
        for j in range(spaces):
            total = 0.0
            for g in range(fields):
                if g == f:
                    continue
                c = gates[pair_of(f, g, fields), j]
                total += c * c * squares[g, j]
                for k in range(g + 1, fields):
                    if k != f:
                        total += 2.0 * c * gates[pair_of(f, k, fields), j] * products[pair_of(g, k, fields), j]
            slopes[f, j] = total


@helper
def _uses(gates: Floats, f: int, j: int, fields: int) -> bool:
    """Whether some pair of the field uses the block."""
    if fields == PAIR:
        return bool(gates[0, j] != 0.0)
    for g in range(fields):
        if g != f and gates[pair_of(f, g, fields), j] != 0.0:
            return True
    return False


@helper
def innovations(
    rows: tuple[Rows, ...], place: Integers, gates: Floats, slopes: Floats, largest: Floats, drift: float, variances: Floats, totals: Floats
) -> None:
    """Variance of each prefix's score, Σ_f (v_f + Σ_{k ≤ j} V_fk |d_fk|²), into totals [N + 1]; at the end the biases' alone.

    The variances after drift go into variances [F, N + 1], the bias' last.
    """
    fields, spaces = len(rows), slopes.shape[1]
    total = 0.0
    for f in range(fields):
        variances[f, spaces] = rows[f][place[f], rows[f].shape[1] - 1]
        total += variances[f, spaces]
    totals[spaces] = total
    for j in range(spaces):
        for f in range(fields):
            lift = drift if _uses(gates, f, j, fields) else 0.0
            variances[f, j] = min(rows[f][place[f], rows[f].shape[1] - spaces - 1 + j] + lift, largest[f, j])
            total += variances[f, j] * slopes[f, j]
        totals[j] = total


@helper
def _move_two(p: Rows, q: Rows, start: int, end: int, a: float, b: float) -> None:
    """p += a q and q += b p, both from the values before; a and b are 0.0 for a row that does not learn."""
    for k in range(start, end):
        x, y = np.float64(p[k]), np.float64(q[k])
        p[k] = x + a * y
        q[k] = y + b * x


@helper
def _move_many(
    rows: tuple[Rows, ...], place: Integers, gates: Floats, j: int, start: int, end: int, factors: Floats, before: Floats
) -> None:
    """r_f += factors_f Σ_g c_fg r_g, all from the values before. before: [F, D] scratch."""
    fields = len(rows)
    for f in range(fields):
        for k in range(start, end):
            before[f, k] = rows[f][place[f], k]
    for f in range(fields):
        row = rows[f][place[f]]
        for k in range(start, end):
            slope = 0.0
            for g in range(fields):
                if g != f:
                    slope += gates[pair_of(f, g, fields), j] * before[g, k]
            row[k] = before[f, k] + factors[f] * slope


@helper
def move(
    rows: tuple[Rows, ...],
    held: tuple[Bytes, ...],
    place: Integers,
    ends: Integers,
    gates: Floats,
    slopes: Floats,
    variances: Floats,
    directions: Floats,
    steps: Floats,
    totals: Floats,
    learns: Bytes,
    first: int,
    factors: Floats,
    before: Floats,
) -> None:
    """The Kalman step of every row's blocks from the `first` on, each from the error of its own prefix.

    steps: [N] (y-p)/(h S) of each prefix; totals: [N] S; learns: [F] 0 for a field whose row stays; factors: [F] and before: [F, D]
    scratch. Borrowed blocks stay.
    """
    fields, spaces = len(rows), slopes.shape[1]
    start = 0
    for j in range(spaces):
        used = False
        for f in range(fields):
            moves = j >= first and learns[f] != 0 and held[f][place[f], j] == HELD
            factors[f] = variances[f, j] * steps[j] if moves else 0.0
            used = used or (j >= first and _uses(gates, f, j, fields))
            if moves:
                v = variances[f, j]
                rows[f][place[f], ends[-1] + 1 + j] = v - v * v * slopes[f, j] / (totals[j] * directions[j])
        if used:
            if fields == PAIR:
                a, b = factors[0] * gates[0, j], factors[1] * gates[0, j]
                _move_two(rows[0][place[0]], rows[1][place[1]], start, ends[j], a, b)
            else:
                _move_many(rows, place, gates, j, start, ends[j], factors, before)
        start = ends[j]


@helper
def move_biases(rows: tuple[Rows, ...], place: Integers, end: int, variances: Floats, step: float, total: float) -> None:
    """The Kalman step of the biases. end: columns of the embedding; step, total: of the whole score."""
    for f in range(len(rows)):
        row, v = rows[f][place[f]], variances[f, variances.shape[1] - 1]
        row[end] += v * step
        row[len(row) - 1] = v - v * v / total
