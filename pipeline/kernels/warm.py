"""Compiles every kernel for the types the product calls it with, before anybody waits for a step."""

from collections.abc import Callable, Iterator

import numpy as np

from autoemb_pipeline.kernels.avro import decode_interactions, encode_interactions
from autoemb_pipeline.kernels.compiling import cache_directory
from autoemb_pipeline.kernels.events import observe, run
from autoemb_pipeline.kernels.hashing import hashed_rows
from autoemb_pipeline.kernels.holding import Measured, pack, tally, unpack, weigh
from autoemb_pipeline.kernels.layout import (
    HELD,
    PAIR,
    Interactions,
    Model,
    Operations,
    Predicted,
    State,
    blank_context,
    blank_totals,
    no_memory,
    weights_at,
)
from autoemb_pipeline.kernels.newton import newton_descend, newton_observe
from autoemb_pipeline.kernels.order import ascending_runs, ascends, count_late, merge_by_heads
from autoemb_pipeline.kernels.popularity import sum_by_popularity
from autoemb_pipeline.kernels.references import features_of, predict_references
from autoemb_pipeline.kernels.rounding import round_rows
from autoemb_pipeline.kernels.schedule import earlier_in_batch, operations
from autoemb_pipeline.kernels.search import (
    mixture_slopes,
    remember,
    remember_run,
    validate,
)
from autoemb_pipeline.kernels.spans import extend_spans, thin_spans
from autoemb_pipeline.kernels.texts import distinct_texts, hashes_of, partitions_of, take_texts
from autoemb_pipeline.kernels.values import pack_int16, read_sized, trim_sized, unpack_int16
from autoemb_pipeline.kernels.worth import (
    BITS,
    GROUPS,
    Costs,
    Evidence,
    Expectation,
    Seen,
    choose,
    correct,
    given_up,
    in_panel,
    judge,
    learn,
    promoted,
    see,
)

COMPLETE = "complete"


def is_compiled() -> bool:
    """Whether `compile_all` has finished once with these sources on this machine, so that nothing has to be compiled at the start."""
    return (cache_directory() / COMPLETE).exists()


def compile_all(progress: Callable[[int, int, str], None], fields: int = PAIR) -> None:
    """Compiles and caches all kernels; those in the cache are only loaded.

    Args:
        progress: called before each with how many are done, of how many, and what comes.
        fields: of ids; 2 are users and items.
    """
    jobs = [*_jobs(fields), *_search_jobs(), *_source_jobs(), *_store_jobs()]
    for done, (name, job) in enumerate(jobs):
        progress(done, len(jobs), name)
        job()
    progress(len(jobs), len(jobs), "")
    if fields == PAIR:
        (cache_directory() / COMPLETE).touch()


def _jobs(fields: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each kernel called once with a mini-batch of one interaction: name, call."""
    pairs = fields * (fields - 1) // 2
    events = Interactions(
        local=np.zeros((fields, 1), dtype=np.int64),
        slots=(np.zeros(1, dtype=np.int64),) * fields,
        times=np.zeros(1, dtype=np.int64),
        binary=np.zeros(1),
        classes=np.zeros(1, dtype=np.int64),
        uses=np.ones((fields, 1, 1)),
        choices=np.zeros((fields, 1), dtype=np.int64),
        foreseen=np.zeros((fields, 1), dtype=np.int8),
    )
    state = State(
        rows=tuple(np.ones((1, 4), dtype=np.float32) for _ in range(fields)),
        held=(np.full((1, 1), HELD, dtype=np.int8),) * fields,
        contexts=tuple(blank_context(f, 1, 1, 0) for f in range(fields)),
        totals=blank_totals(),
    )
    weights = np.zeros((1, 16 + pairs))
    model = Model(weights, np.ones(1), np.ones(1, dtype=np.int64), np.ones(2), np.ones((fields, 1)), 1e-6, 0)
    base = np.zeros((1, 1))
    out = Predicted(
        inputs=np.zeros((1, 16 + pairs)),
        products=np.zeros((1, pairs, 1)),
        base=base.copy(),
        probabilities=base.copy(),
        classes=np.zeros((1, 0)),
        prefixes=np.zeros((1, 2, 1)),
        levels=events.choices,
    )
    one, which = np.zeros(1), np.zeros(1, dtype=np.int64)
    local, slots, context = events.local[0], events.slots[0], state.contexts[0]
    precision = np.eye(weights.size)
    several = np.ones((fields, 1, 1), dtype=np.float32)
    nothing = Operations(np.zeros(0, dtype=np.int8), np.zeros(0, dtype=np.int64))

    yield "order of strict labels", lambda: operations(events.times, "strict")
    yield "counts within a mini-batch", lambda: earlier_in_batch(which)
    yield "context, prediction and learning", lambda: run(nothing, events, state, model, out, no_memory(events, 1))
    yield "context alone", lambda: observe(nothing, events, state, model, out)
    yield "Newton's sums", lambda: newton_observe(out.inputs, which, out.probabilities, one, which, precision, weights)
    yield "Newton's step", lambda: newton_descend(weights, np.eye(weights.size), weights.copy())
    yield "references", lambda: predict_references(out.inputs, out.classes, np.zeros((1, 16)), base, base.copy())
    yield "features of the references", lambda: features_of(out.inputs)
    yield "losses of prefixes", lambda: validate(events, out, np.zeros((1, 2)), base.copy())
    yield "controllers' slopes", lambda: mixture_slopes(events, model, out, several, True, several.copy())
    yield "figures by popularity", lambda: sum_by_popularity(one, one, base, one, np.zeros((4, 2)), np.empty(3))
    yield "losses of ids", lambda: remember(local, slots, one, np.ones((1, 1)), which, weights_at(0), context)
    yield "loss of the run", lambda: remember_run(one, which, state.totals)


def _search_jobs() -> Iterator[tuple[str, Callable[[], object]]]:
    """The same for the search of dimensions: name, call."""
    whole, flag, room = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.bool_), np.zeros((1, 4), dtype=np.int8)
    context, several, column = blank_context(0, 1, 1, 0), np.zeros((2, 1), dtype=np.int64), np.zeros((1, 1))
    seen, costs = Seen(np.zeros(1), whole.copy(), np.zeros((1, 5))), Costs(np.zeros(2, dtype=np.int64), 0.0, 4, 0.0)
    width, groups = BITS + 5, len(GROUPS) + 1
    says = Expectation(np.zeros((1, width)), np.ones((1, groups)))
    evidence = Evidence(np.ones(width), np.eye(width)[None].copy(), np.zeros((1, width)), np.zeros((2, 1, groups)), np.zeros((2, 1)))
    measured, bytes_ = Measured(whole, whole.copy(), flag), np.zeros((1, 2), dtype=np.uint8)
    nothing, numbers = np.zeros(0, dtype=np.int64), np.zeros((1, 4), dtype=np.float32)
    events = Interactions(several, (whole, whole), whole, np.zeros(1), whole, np.zeros((2, 1, 1)), several, np.zeros((2, 1), dtype=np.int8))
    texts = np.frombuffer(b" ", np.uint8), np.array([0, 1], dtype=np.int64)

    yield "controllers' inputs", lambda: see(several[0], whole, context, blank_totals(), weights_at(0), seen)
    yield "choices", lambda: choose(several[0], measured, numbers, seen, says, costs, column, several[0], room[:, 0].copy())
    yield "panel", lambda: in_panel(numbers, 0.0)
    yield "promoted ids", lambda: promoted(several[0], several[0], measured, costs.by_level)
    yield "choices judged", lambda: judge(whole, context, whole, seen, says, costs, np.zeros(2), whole.copy())
    yield "controllers", lambda: learn(seen, whole, np.zeros((1, 2)), column, whole, 1.0, 1.0, evidence, says)
    yield "corrections", lambda: correct(evidence.sums, 1.0, says.kappa)
    yield "loss given up", lambda: given_up((column, column), several)
    yield "bytes", lambda: weigh(nothing, room, room, context, costs.by_level, measured)
    yield "bytes counted", lambda: tally(measured, measured, np.zeros(2, dtype=np.int64), room[:, 0].copy())
    yield "what is remembered", lambda: pack(0, (whole, room), no_memory(events, 1), several, (whole, bytes_), texts, room[0], 0)
    yield "what was remembered", lambda: unpack(whole, room, 2)


def _source_jobs() -> Iterator[tuple[str, Callable[[], object]]]:
    """The same for decoding, merging and encoding: name, call."""
    text, bounds = np.zeros(1, dtype=np.uint8), np.array([0, 1], dtype=np.int64)
    whole, flag, bits = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.bool_), np.zeros(1, dtype=np.uint64)
    value = np.frombuffer(b" ", np.uint8)  # read-only, as what is fetched and what a record begins with
    columns = text, bounds, text, bounds, bits, whole, whole, whole, text, bounds
    first, last, low, high = (np.zeros(4, dtype=np.int64) for _ in range(4))

    yield "decoding", lambda: decode_interactions(value, bounds, text, bounds, 1, 1)
    yield "encoding", lambda: encode_interactions(value, *columns, 1, 1)
    yield "merge", lambda: merge_by_heads(whole, whole, whole, whole, bounds, whole, flag, flag, False, False, -1, 1)
    yield "order of a mini-batch", lambda: ascends(whole, whole, whole, whole)
    yield "late records", lambda: count_late(whole, whole, whole, 0, 0, 0)
    yield "runs of sequences", lambda: ascending_runs(whole, whole, whole.copy())
    yield "re-deliveries", lambda: extend_spans(first, last, low, high, 0, whole, whole, 3)
    yield "fewer anchors", lambda: thin_spans(first, last, low, high, 3)
    yield "new rows", lambda: hashed_rows(value, value, bounds, 1.0, np.zeros((1, 1), dtype=np.float32))
    yield "texts", lambda: take_texts(text, bounds, whole)
    yield "distinct ids", lambda: distinct_texts(text, bounds)
    yield "events' ids", lambda: hashes_of(text, bounds)
    yield "partitions", lambda: partitions_of(text, bounds, 1)


def _store_jobs() -> Iterator[tuple[str, Callable[[], object]]]:
    """The same for rows as they are stored: name, call."""
    rows, held, keys = np.ones((1, 2), dtype=np.float32), np.full((1, 1), HELD, dtype=np.int8), np.zeros(1, dtype=np.uint64)
    slots, first, end = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)
    numbers, exponents = np.zeros((1, 1), dtype=np.int16), np.zeros((1, 1), dtype=np.int8)
    data, events = np.frombuffer(bytes(2), np.int8), np.zeros((1, 2), dtype=np.int8)

    yield "rounding", lambda: round_rows(rows, held, slots, first, end, keys)
    yield "rows of 16 bits", lambda: pack_int16(rows, first, end, numbers, exponents)
    yield "rows out of 16 bits", lambda: unpack_int16(numbers, exponents, first, end, rows, slots)
    yield "lengths of rows", lambda: trim_sized(events, slots)
    yield "rows with lengths", lambda: read_sized(data, slots.copy(), end + 1, events, slots)
