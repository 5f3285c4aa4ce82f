"""What blocks are worth to ids, which blocks ids shall hold, and what a side's controller learns from losses.

The paper's 32 popularity bits of an id are ones up to its count, so how many are ones says them all: `Seen` holds that number beside the
other inputs, and sums over bits are sums over a prefix.

Shape legend: B interactions, n ids, N blocks, S = N + 4 inputs beside the bits, K = 32 + S, G popularity groups.
"""

from math import isnan, log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels.compiling import helper, kernel
from autoemb_pipeline.kernels.holding import Measured
from autoemb_pipeline.kernels.layout import COUNT, FADING_LOSS, LAST_TIME, PREVIOUS_LOSS, RUN_LOSS, Bytes, Floats, Integers
from autoemb_pipeline.kernels.newton import newton_descend
from autoemb_pipeline.kernels.search import LARGEST_RELATIVE_LOSS, THRESHOLDS

BITS = len(THRESHOLDS)
GROUPS = np.array([1.0, 4.0, 16.0])
"""Counts at which a popularity group begins; the first is that of new ids."""
AHEAD = 4.0
"""Times the present count: how far ahead an id waits for a larger space."""
SHRUNK_BELOW = 0.5
"""A block that is held is taken when it is worth less than this part of its price."""
USUAL_ENTRY = 12
"""Bytes of a remembered interaction."""
ROOM = 48
"""Bytes left for remembering below which an id counts as one that can remember no more."""
SQRT3 = 3.0**0.5
UNTRAINED = 0.75
"""Part of what a partner's blocks save that is lost with an interaction that they do not learn."""


class Seen(NamedTuple):
    """What a side's controller sees.

    Attributes:
        counts: [B] interactions of the id before this one.
        passed: [B] how many of the 32 popularity bits are ones.
        rest: [B, S] logarithm of the count, N previous weights, previous and fading loss, 1.
    """

    counts: Floats
    passed: Integers
    rest: Floats


class Expectation(NamedTuple):
    """What a controller says: of each block the weights of its inputs, and the correction by popularity group.

    Attributes:
        weights: [N, K].
        kappa: [N, G].
    """

    weights: Floats
    kappa: Floats


class Evidence(NamedTuple):
    """What a controller has learnt; its past fades.

    Attributes:
        ridge: [K] diagonal of the precision before anything is known.
        precision: [N, K, K], lower triangles.
        moments: [N, K] precision times weights.
        sums: [2, N, G] what was saved, and expected to be.
        clusters: [2, R] the same by cluster of users, of all blocks.
    """

    ridge: Floats
    precision: Floats
    moments: Floats
    sums: Floats
    clusters: Floats


class Costs(NamedTuple):
    """What bytes cost, and who need not pay.

    Attributes:
        by_level: [N + 1] bytes of so many blocks.
        price: of a byte.
        memory: bytes that an id can remember.
        panel: part of the ids that hold every block.
    """

    by_level: Integers
    price: float
    memory: int
    panel: float


@helper
def _passed(count: float) -> int:
    passed = 0
    while passed < BITS and count >= THRESHOLDS[passed]:
        passed += 1
    return passed


@helper
def _logarithm(count: float) -> float:
    return log(max(count, 1.0)) / log(THRESHOLDS[-1])


@helper
def _group(count: float) -> int:
    group = 0
    while group < len(GROUPS) and count >= GROUPS[group]:
        group += 1
    return group


@kernel
def see(local: Integers, slots: Integers, context: Floats, totals: Floats, first: int, seen: Seen) -> None:
    """A field's controller inputs before the mini-batch is predicted: docs/algorithm.md, "Controllers".

    Args:
        local: [B] positions of the field's ids.
        slots: [n].
        context: [slots, W].
        totals: of the run.
        first: `weights_at` of the field: column of the context rows where the N previous weights begin.
        seen: the counts are given; the others are written.
    """
    spaces = seen.rest.shape[1] - 4
    scale = totals[RUN_LOSS]
    for i in range(len(local)):
        row, rest = context[slots[local[i]]], seen.rest[i]
        seen.passed[i] = _passed(seen.counts[i])
        rest[0] = _logarithm(seen.counts[i])
        for n in range(spaces):
            rest[1 + n] = row[first + n]
        for column in (PREVIOUS_LOSS, FADING_LOSS):
            relative = row[column] / scale if scale > 0.0 else np.nan
            rest[1 + spaces + column - PREVIOUS_LOSS] = 1.0 if isnan(relative) else min(max(relative, 0.0), LARGEST_RELATIVE_LOSS)
        rest[spaces + 3] = 1.0


@helper
def _expect(passed: int, rest: Floats, group: int, controller: Expectation, worth: Floats) -> None:
    for j in range(len(worth)):
        total, own = 0.0, controller.weights[j]
        for k in range(passed):
            total += own[k]
        for s in range(len(rest)):
            total += own[BITS + s] * rest[s]
        worth[j] = max(total, 0.0) * controller.kappa[j, group]


@helper
def _best(worth: Floats, future: float, costs: Floats, most: int) -> int:
    """The number of blocks, of at most `most`, with the largest surplus; the fewest of equals."""
    best, largest, total = 0, -costs[0], 0.0
    for j in range(most):
        total += worth[j]
        surplus = total * future - costs[j + 1]
        if surplus > largest:
            best, largest = j + 1, surplus
    return best


@helper
def _in_panel(number: float, share: float) -> bool:
    return 0.5 * (number / SQRT3 + 1.0) < share


@kernel
def in_panel(numbers: NDArray[np.float32], share: float) -> NDArray[np.bool_]:
    """[n] whether ids belong to this part of all: by the first of their uniform numbers [n, …] of variance 1."""
    known = np.empty(len(numbers), dtype=np.bool_)
    for i in range(len(numbers)):
        known[i] = _in_panel(numbers[i, 0], share)
    return known


@kernel
def promoted(local: Integers, choices: Integers, records: Measured, by_level: Integers) -> Integers:
    """Positions, ascending, of the ids that get blocks and remember something.

    Args:
        local: [B] positions of the field's ids.
        choices: [B] blocks that they shall hold.
        records: what they hold.
        by_level: [N + 1] bytes of so many blocks.
    """
    chosen = np.zeros(len(records.levels), dtype=np.bool_)
    for i in range(len(local)):
        k = local[i]
        level = records.levels[k]
        if choices[i] > level and records.sizes[k] > by_level[level]:
            chosen[k] = True
    return np.flatnonzero(chosen)


@kernel
def choose(
    local: Integers,
    records: Measured,
    numbers: NDArray[np.float32],
    seen: Seen,
    controller: Expectation,
    costs: Costs,
    worth: Floats,
    choices: Integers,
    foreseen: Bytes,
) -> None:
    """How many blocks each interaction's id shall hold, and whether more are likely within a few times its present count.

    Args:
        local: [B] positions of the field's ids.
        records: what the ids hold.
        numbers: [n, …] the first of each id's uniform numbers, of variance 1, says whether it is in the panel.
        seen, controller, costs: the side's.
        worth: [B, N] result: loss that each block is expected to save per interaction.
        choices, foreseen: [B] results.
    """
    spaces = worth.shape[1]
    paid, later_worth, rest = np.empty(spaces + 1), np.empty(spaces), np.empty(seen.rest.shape[1])
    for i in range(len(local)):
        k, count = local[i], seen.counts[i]
        held = records.levels[k]
        remembered = records.sizes[k] - costs.by_level[held]
        for n in range(spaces + 1):
            paid[n] = costs.price * costs.by_level[n]
        paid[0] += costs.price * min(remembered + USUAL_ENTRY, costs.memory)
        for n in range(held + 1):
            paid[n] *= SHRUNK_BELOW
        _expect(seen.passed[i], seen.rest[i], _group(count), controller, worth[i])
        now = _best(worth[i], 1.0 + count, paid, spaces)
        later = AHEAD * (1.0 + count)
        rest[:] = seen.rest[i]
        rest[0] = _logarithm(later)
        _expect(_passed(later), rest, _group(later), controller, later_worth)
        soon = _best(later_worth, 1.0 + later, paid, spaces)
        full = remembered > costs.memory - ROOM
        if held == 0 and full:
            now = max(now, 1)
        choices[i] = spaces if _in_panel(numbers[k, 0], costs.panel) else max(now, held)
        foreseen[i] = 1 if soon > choices[i] and not full else 0


@kernel
def judge(
    slots: Integers, context: Floats, held: Integers, seen: Seen, controller: Expectation, costs: Costs, clock: Floats, left: Integers
) -> None:
    """How many of the blocks that ids hold are still worth their price.

    An id can expect as many interactions as it had, but one that was not seen for a part s of the stream's time at most 1/s.

    Args:
        slots: [n].
        context: [slots, W].
        held: [n] blocks.
        seen, controller, costs: the side's; `seen` of the ids as they stand.
        clock: the stream's first event time and its latest, s.
        left: [n] result.
    """
    spaces = len(costs.by_level) - 1
    worth, paid = np.empty(spaces), np.empty(spaces + 1)
    for n in range(spaces + 1):
        paid[n] = SHRUNK_BELOW * costs.price * costs.by_level[n]
    span = max(clock[1] - clock[0], 1.0)
    for i in range(len(slots)):
        idle = max(clock[1] - context[slots[i], LAST_TIME], 1.0)
        _expect(seen.passed[i], seen.rest[i], _group(context[slots[i], COUNT]), controller, worth)
        left[i] = _best(worth, min(1.0 + seen.counts[i], span / idle), paid, held[i])


@kernel
def correct(sums: Floats, prior: float, kappa: Floats) -> None:
    """κ: what was saved of what was expected to be, shrunk towards the block's, and that towards 1. Arguments as of the tuples above."""
    blocks, groups = kappa.shape
    for j in range(blocks):
        saved, expected = prior, prior
        for g in range(groups):
            saved += sums[0, j, g]
            expected += sums[1, j, g]
        for g in range(groups):
            kappa[j, g] = max((sums[0, j, g] + prior * saved / expected) / (sums[1, j, g] + prior), 0.0)


@helper
def _fade(j: int, fade: float, evidence: Evidence) -> None:
    precision, moment = evidence.precision[j], evidence.moments[j]
    for k in range(len(moment)):
        moment[k] *= fade
        for n in range(k + 1):
            precision[k, n] *= fade
        precision[k, k] += (1.0 - fade) * evidence.ridge[k]


@helper
def _add_bits(ones: Floats, rests: Floats, targets: Floats, precision: Floats, moment: Floats) -> None:
    """Adds rows that are given by how many bits are ones: [BITS + 1] their number and summed targets, [BITS + 1, S] their other inputs."""
    for k in range(BITS - 1, -1, -1):  # bit k is 1 where more than k are ones
        ones[k] += ones[k + 1]
        targets[k] += targets[k + 1]
        for s in range(rests.shape[1]):
            rests[k, s] += rests[k + 1, s]
            precision[BITS + s, k] += rests[k + 1, s]
        moment[k] += targets[k + 1]
        for n in range(k + 1):
            precision[k, n] += ones[k + 1]


@kernel
def learn(
    seen: Seen,
    level: Integers,
    losses: Floats,
    expected: Floats,
    clusters: Integers,
    fade: float,
    prior: float,
    evidence: Evidence,
    controller: Expectation,
) -> None:
    """One mini-batch: what each block that the pair had was expected to save, and saved.

    Args:
        seen: of the side.
        level: [B] blocks that the pair had.
        losses: [B, N + 1] under every prefix.
        expected: [B, N].
        clusters: [B] of the users.
        fade: what is left of the past.
        prior: weight of κ = 1, in the unit of the summed expected savings.
        evidence, controller: changed in place.
    """
    count, spaces = expected.shape
    width = seen.rest.shape[1]
    evidence.sums[:] *= fade
    evidence.clusters[:] *= fade
    ones, targets, rests = np.empty(BITS + 1), np.empty(BITS + 1), np.empty((BITS + 1, width))
    for j in range(spaces):
        _fade(j, fade, evidence)
        precision, moment = evidence.precision[j], evidence.moments[j]
        ones[:], targets[:], rests[:] = 0.0, 0.0, 0.0
        for i in range(count):
            if level[i] <= j:
                continue
            z, target, passed, group = seen.rest[i], expected[i, j], seen.passed[i], _group(seen.counts[i])
            ones[passed] += 1.0
            targets[passed] += target
            for s in range(width):
                rests[passed, s] += z[s]
                moment[BITS + s] += target * z[s]
                for n in range(s + 1):
                    precision[BITS + s, BITS + n] += z[s] * z[n]
            saved = losses[i, j] - losses[i, j + 1]
            evidence.sums[0, j, group] += saved
            evidence.sums[1, j, group] += target
            evidence.clusters[0, clusters[i]] += saved
            evidence.clusters[1, clusters[i]] += target
        _add_bits(ones, rests, targets, precision, moment)
        controller.weights[j, :] = 0.0
        newton_descend(controller.weights[j : j + 1], precision, -evidence.moments[j : j + 1])
    correct(evidence.sums, prior, controller.kappa)


@kernel
def given_up(worths: tuple[Floats, Floats], levels: Integers) -> float:
    """Mean over the interactions of what the blocks that the pair lacked would have saved, now and by their learning.

    Args:
        worths: of both sides [B, N].
        levels: [2, B] blocks that each id held.
    """
    count, spaces = worths[0].shape
    total = 0.0
    for i in range(count):
        level = min(levels[0, i], levels[1, i])
        users, items = 0.0, 0.0
        for j in range(spaces - 1, level - 1, -1):
            users += worths[0][i, j]
            items += worths[1][i, j]
        if levels[0, i] == level and levels[1, i] == level:
            total += min(users, items)
        elif levels[0, i] == level:
            total += users + UNTRAINED * items
        else:
            total += items + UNTRAINED * users
    return float(total / max(count, 1))
