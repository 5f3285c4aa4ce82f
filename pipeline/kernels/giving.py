"""Blocks given to ids inside a mini-batch, and the interactions that they remember until then; users and items only."""

from autoemb_pipeline.kernels.compiling import helper
from autoemb_pipeline.kernels.layout import ABSENT, BORROWED, HELD, PAIR, Floats, Interactions, Memory, Model, Predicted, State
from autoemb_pipeline.kernels.rows import measure
from autoemb_pipeline.kernels.scores import Work, learn_rows, level_of, score


@helper
def _replay(f: int, own: int, partner: int, k: tuple[Floats, int, int], first: int, state: State, model: Model, work: Work) -> None:
    """Learns a remembered interaction into the blocks that an id got, from the `first` on, and into its partner's same blocks.

    Args:
        f: the id's field.
        own, partner: slots.
        k: [C] logits without products, label, and 1 where the partner learns it by itself.
        first: number of the first block that is new.
        state, model, work: as elsewhere.
    """
    offsets, label, shared = k
    g = 1 - f
    work.place[f], work.place[g] = own, partner
    lent = level_of(state.held[g][partner]) == 0
    if lent:  # used as it was made; it never learns
        for j in range(level_of(state.held[f][own])):
            state.held[g][partner, j] = BORROWED
    measure(state.rows, state.held, work.place, model.ends, work.products, work.squares)
    for j in range(work.products.shape[1]):
        both = state.held[f][own, j] != ABSENT and state.held[g][partner, j] != ABSENT
        work.gates[0, j] = 1.0 if both else 0.0
    for c in range(len(model.levels)):
        work.logits[c] = offsets[c]
    score(model, work)
    work.learns[g] = 0 if shared else 1
    learn_rows(float(label), label, state, model, work, first, False)
    work.learns[g] = 1
    if lent:
        for j in range(state.held[g].shape[1]):
            state.held[g][partner, j] = ABSENT


@helper
def give(f: int, i: int, events: Interactions, state: State, model: Model, memory: Memory, work: Work) -> None:
    """Gives an id the blocks chosen for it, and lets these learn what it remembers."""
    local, g = events.local[f, i], 1 - f
    own = events.slots[f][local]
    held = state.held[f][own]
    level, chosen = level_of(held), events.choices[f, i]
    if chosen > level:
        for j in range(level, chosen):
            held[j] = HELD
        if memory.forgotten[f][local] == 0:
            for k in range(memory.starts[f][local], memory.starts[f][local + 1]):
                partner = events.slots[g][memory.partners[f][k]]
                _replay(f, own, partner, (memory.offsets[f][k], memory.labels[f][k], memory.shared[f][k]), level, state, model, work)
        k = memory.heads[f][local]
        while k >= 0:
            label = events.classes[k] if len(model.levels) > 1 else int(events.binary[k])
            partner = events.slots[g][events.local[g, k]]
            _replay(f, own, partner, (memory.own_offsets[k], label, memory.own_shared[k]), level, state, model, work)
            k = memory.following[f, k]
        level = chosen
    if level == len(held) or (level and events.foreseen[f, i] == 0):
        memory.forgotten[f][local] = 1
        memory.heads[f][local] = memory.tails[f][local] = -1


@helper
def note(i: int, biases: float, events: Interactions, state: State, model: Model, out: Predicted, memory: Memory) -> None:
    """Notes a learnt interaction at those of its ids that have no row, or are likely to get more blocks."""
    noted = 0
    for f in range(PAIR):
        local = events.local[f, i]
        held = state.held[f][events.slots[f][local]]
        level = level_of(held)
        if level == len(held) or (level and events.foreseen[f, i] == 0):
            continue
        if memory.heads[f][local] < 0:
            memory.heads[f][local] = i
        else:
            memory.following[f, memory.tails[f][local]] = i
        memory.tails[f][local] = i
        noted += 1
    if noted:
        memory.own_shared[i] = noted - 1
        for c in range(len(model.levels)):
            memory.own_offsets[i, c] = out.base[i, c] + biases * model.levels[c]
