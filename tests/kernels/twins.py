"""The kernels' formulas in plain Python and NumPy: vector by vector, with lists of fields, and no trick of the kernels."""

from itertools import combinations

import numpy as np

from autoemb_pipeline.kernels import (
    ABSENT,
    BORROWED,
    HELD,
    LEARN_ROWS,
    LEARN_STATISTICS,
    PREDICT,
    Interactions,
    Memory,
    Model,
    Operations,
    Predicted,
    State,
)

THRESHOLDS = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096, 5793, 8192, 11585,
              16384, 23170, 32768, 46341, 65536)  # fmt: skip


def logit(p: float) -> float:
    p = float(np.clip(p, 0.02, 0.98))
    return np.log(p / (1 - p))


def features(u, v, seconds, g) -> list[float]:
    mean, deviation = (v[5] + 3 * g) / (v[4] + 3), u[5] / (u[4] + 8)
    gap = 2.0 if u[0] == 0 else np.log1p(max(0.0, seconds - u[1])) / 10
    counts = [np.log1p(u[0]) / 5, np.log1p(v[0]) / 5]
    recent = [u[6] / (u[7] + 2), v[6] / (v[7] + 2)]
    flags = [1.0, float(u[0] == 0), float(v[0] == 0)]
    return [logit(mean + deviation), mean - g, deviation, *counts, *recent, u[8], gap, logit(g + u[9] + v[8]), u[9], v[8], u[10], *flags]


def learn_statistics(u, v, y, totals) -> None:
    g = (0.5 + totals[1]) / (1 + totals[0])
    residual = y - (v[5] + 3 * g) / (v[4] + 3)
    deviation = u[5] / (u[4] + 8)
    error = u[9] + v[8] + g - y
    u[9], v[8] = u[9] - 0.05 * (error + 0.01 * u[9]), v[8] - 0.05 * (error + 0.01 * v[8])
    u[4:11] = [u[4] + 1, u[5] + residual, 0.8 * u[6] + residual, 0.8 * u[7] + 1, y - 0.5, u[9], 0.9 * u[10] + 0.1 * residual]
    v[4:9] = [v[4] + 1, v[5] + y, 0.9 * v[6] + y - g - deviation, 0.9 * v[7] + 1, v[8]]
    totals[:2] += [1, y]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def level(held: np.ndarray) -> int:
    """Blocks held from the first on."""
    return next((j for j, own in enumerate(held) if own != HELD), len(held))


class Twin:
    """`noted` is what `Memory`'s chains say: of each field and distinct id the interactions of this mini-batch that it remembers."""

    def __init__(self, events: Interactions, state: State, model: Model, out: Predicted, memory: Memory) -> None:
        self.events, self.state, self.model, self.out, self.memory = events, state, model, out, memory
        self.fields, self.spaces = len(state.rows), len(model.ends)
        self.pairs = list(combinations(range(self.fields), 2))
        self.dense = model.weights.shape[1] - len(self.pairs) * self.spaces
        self.bounds = list(zip([0, *model.ends[:-1]], model.ends, strict=True))
        of_products = model.weights[:, self.dense :].reshape(-1, len(self.pairs), self.spaces)
        self.gains = np.einsum("c,cpj->pj", model.levels, of_products) / (model.levels @ model.levels)
        self.of_products = of_products
        self.noted: list[list[list[int]]] = [[[] for _ in slots] for slots in events.slots]

    def run(self, operations: Operations) -> None:
        for kind, i in zip(operations.kinds, operations.events, strict=True):
            at = [s[k[i]] for s, k in zip(self.events.slots, self.events.local, strict=True)]
            if kind == PREDICT:
                if self.model.searched:
                    self.give(0, i)
                    self.give(1, i)
                self.predict(i, at)
                continue
            if kind != LEARN_STATISTICS:
                self.learn(i, at)
            if kind != LEARN_ROWS:
                u, v = (self.state.contexts[f][at[f]] for f in range(2))
                learn_statistics(u, v, self.events.binary[i], self.state.totals)
                if self.out.classes.shape[1]:
                    for counts in (u[-5:], v[-5:], self.state.totals[3:]):
                        counts[self.events.classes[i]] += 1

    def measured(self, at, uses):
        """R [P, N], products [P, N], sum of biases. uses: [F, N]."""
        factors, products = np.zeros((len(self.pairs), self.spaces)), np.zeros((len(self.pairs), self.spaces))
        for p, (f, g) in enumerate(self.pairs):
            for j, (a, b) in enumerate(self.bounds):
                if self.state.held[f][at[f], j] != ABSENT and self.state.held[g][at[g], j] != ABSENT:
                    factors[p, j] = uses[f, j] * uses[g, j]
                    products[p, j] = self.state.rows[f][at[f], a:b] @ self.state.rows[g][at[g], a:b]
        return factors, products, sum(r[k, self.model.ends[-1]] for r, k in zip(self.state.rows, at, strict=True))

    def prefixes(self, offsets, factors, products):
        """[N + 1, C] probabilities with the first n blocks. offsets: [C]."""
        logits = [offsets + np.einsum("pj,cpj->c", (factors * products)[:, :n], self.of_products[:, :, :n]) for n in range(self.spaces + 1)]
        return np.array([sigmoid(x) if len(x) == 1 else softmax(x) for x in logits])

    def predict(self, i, at) -> None:
        events, state, out = self.events, self.state, self.out
        u, v = state.contexts[0][at[0]], state.contexts[1][at[1]]
        seconds = events.times[i] / 1000
        x = features(u, v, seconds, (0.5 + state.totals[1]) / (1 + state.totals[0]))
        if self.model.quadratic:
            x += [x[a] * x[b] for a in range(13) for b in range(a, 13)]
        out.inputs[i, : len(x)] = x
        offset = x[0]
        if out.classes.shape[1]:
            prior = (state.totals[3:] + 1) / (state.totals[3:].sum() + 5)
            of_user, of_item = ((s[-5:] + n * prior) / (s[-5:].sum() + n) for s, n in ((u, 8), (v, 3)))
            out.classes[i] = of_user * of_item / prior
            out.classes[i] /= out.classes[i].sum()
            offset = np.log(out.classes[i])
        for f in range(self.fields):
            state.contexts[f][at[f], 0] += 1
            state.contexts[f][at[f], 1] = np.fmax(state.contexts[f][at[f], 1], seconds)  # NaN of a new id; a late one takes nobody back
            out.levels[f, i] = level(state.held[f][at[f]])
        out.base[i] = offset + self.model.weights[:, : self.dense] @ out.inputs[i, : self.dense]
        factors, products, biases = self.measured(at, events.uses[:, i])
        out.products[i] = products
        out.inputs[i, self.dense :] = (factors * products).ravel()
        out.prefixes[i] = self.prefixes(out.base[i] + biases * self.model.levels, factors, products)
        out.probabilities[i] = out.prefixes[i, -1]

    def learn(self, i, at) -> None:
        uses = self.events.uses[:, i]
        factors, products, biases = self.measured(at, uses)
        offsets = self.out.base[i] + biases * self.model.levels
        self.step(at, factors, self.prefixes(offsets, factors, products), self.label(i), learns=(True,) * self.fields)
        if self.model.searched:
            self.note(i, at, offsets)
        if self.model.revisited:
            factors, products, biases = self.measured(at, uses)
            self.out.prefixes[i] = self.prefixes(self.out.base[i] + biases * self.model.levels, factors, products)

    def label(self, i) -> int:
        return int(self.events.classes[i] if len(self.model.levels) > 1 else self.events.binary[i])

    def step(self, at, factors, prefixes, label, *, learns, first=0, biases=True) -> None:
        """The Kalman step of the blocks from the `first` on, each from the error, curvature and innovation of its own prefix."""
        model, rows, spaces, levels = self.model, self.state.rows, self.spaces, self.model.levels
        p = prefixes[1:]
        wanted = np.eye(5)[label] if len(levels) > 1 else float(label)
        error = (p - wanted) @ levels
        h = p[:, 0] * (1 - p[:, 0]) if len(levels) == 1 else p @ levels**2 - (p @ levels) ** 2
        h = np.maximum(h, 0.02)
        gates, last = factors * self.gains, model.ends[-1]
        slopes, variances = [], []
        for f in range(self.fields):
            slope, variance = np.zeros(last), rows[f][at[f], last + 1 : last + 1 + spaces].copy()
            for j, (a, b) in enumerate(self.bounds):
                own = [(gates[p, j], pair[0] + pair[1] - f) for p, pair in enumerate(self.pairs) if f in pair]
                slope[a:b] = sum(c * rows[g][at[g], a:b] for c, g in own)
                variance[j] = min(variance[j] + model.drift * any(c != 0 for c, _ in own), model.largest[f, j])
            slopes.append(slope)
            variances.append(variance)
        squares = [np.array([s[a:b] @ s[a:b] for a, b in self.bounds]) for s in slopes]
        of_blocks = np.cumsum(sum(v * s for v, s in zip(variances, squares, strict=True)))
        totals = 1 / h + sum(rows[f][at[f], -1] for f in range(self.fields)) + of_blocks
        steps = -error / (h * totals)
        for f in range(self.fields):
            row, v = rows[f][at[f]], rows[f][at[f], -1]
            for j, (a, b) in enumerate(self.bounds):
                if learns[f] and j >= first and self.state.held[f][at[f], j] == HELD:
                    row[a:b] += variances[f][j] * steps[j] * slopes[f][a:b]
                    row[last + 1 + j] = variances[f][j] - variances[f][j] ** 2 * squares[f][j] / (totals[j] * model.directions[j])
            if biases:
                row[last] += v * steps[-1]
                row[-1] = v - v * v / totals[-1]

    def remembers(self, f, i, own) -> bool:
        """Whether an id goes on remembering: it has no row, or not all blocks and is likely to get more."""
        n = level(self.state.held[f][own])
        return n == 0 or (n < self.spaces and self.events.foreseen[f, i] == 1)

    def note(self, i, at, offsets) -> None:
        who = [f for f in range(2) if self.remembers(f, i, at[f])]
        for f in who:
            self.noted[f][self.events.local[f, i]].append(i)
        if who:
            self.memory.own_shared[i], self.memory.own_offsets[i] = len(who) == 2, offsets

    def give(self, f, i) -> None:
        events, memory, g = self.events, self.memory, 1 - f
        local = events.local[f, i]
        own = events.slots[f][local]
        before, chosen = level(self.state.held[f][own]), events.choices[f, i]
        if chosen > before:
            self.state.held[f][own, before:chosen] = HELD
            past = range(memory.starts[f][local], memory.starts[f][local + 1]) if not memory.forgotten[f][local] else ()
            known = [(memory.partners[f][k], memory.offsets[f][k], memory.labels[f][k], memory.shared[f][k]) for k in past]
            known += [(events.local[g, k], memory.own_offsets[k], self.label(k), memory.own_shared[k]) for k in self.noted[f][local]]
            for partner, offsets, label, shared in known:
                self.replay(f, own, events.slots[g][partner], offsets, label, shared, before)
        if not self.remembers(f, i, own):
            memory.forgotten[f][local] = 1
            self.noted[f][local].clear()

    def replay(self, f, own, partner, offsets, label, shared, first) -> None:
        g = 1 - f
        at = [own, partner] if f == 0 else [partner, own]
        theirs = self.state.held[g][partner]
        lent = level(theirs) == 0
        if lent:
            theirs[: level(self.state.held[f][own])] = BORROWED
        factors, products, _ = self.measured(at, np.ones((2, self.spaces)))
        learns = [True, True]
        learns[g] = not shared
        self.step(at, factors, self.prefixes(offsets, factors, products), label, learns=learns, first=first, biases=False)
        if lent:
            theirs[:] = ABSENT


def newton_observe(inputs, which, probabilities, binary, classes, precision, gradient) -> None:
    z, p = inputs[which], probabilities[which]
    wanted = binary[which, None] if p.shape[1] == 1 else np.eye(5)[classes[which]]
    gradient += (p - wanted).T @ z
    for zb, pb in zip(z, p, strict=True):
        precision += np.kron(np.diag(pb) - np.outer(pb, pb), np.outer(zb, zb))


def controller_inputs(ids, context, totals, first, spaces) -> tuple[np.ndarray, np.ndarray]:
    """ids: [B] slots."""
    found, counts = [], []
    for i, slot in enumerate(ids):
        row = context[slot]
        count = row[0] + list(ids[:i]).count(slot)
        relative = [1.0 if np.isnan(loss / totals[2]) else float(np.clip(loss / totals[2], 0, 4)) for loss in row[2:4]]
        found.append(
            [*(float(count >= t) for t in THRESHOLDS), np.log(max(count, 1)) / np.log(65536), *row[first : first + spaces], *relative]
        )
        counts.append(count)
    return np.array(found), np.array(counts)


def mixture_slopes(loss_slope, products, gains, uses, nested) -> np.ndarray:
    """loss_slope: [B] ∂L/∂s; products: [B, P, N]."""
    fields = len(uses)
    found = []
    for f in range(fields):
        of_use = np.zeros(uses.shape[1:])
        for p, pair in enumerate(combinations(range(fields), 2)):
            if f in pair:
                of_use += loss_slope[:, None] * gains[p] * products[:, p] * uses[pair[0] + pair[1] - f]
        found.append(np.cumsum(of_use, axis=1) if nested else of_use)
    return np.array(found)


def validate(prefixes, binary, classes) -> tuple[np.ndarray, np.ndarray]:
    """[B, N + 1] losses and [B, N] expected savings. prefixes: [B, N + 1, C]."""
    if prefixes.shape[2] == 1:
        p = prefixes[:, :, 0]
        return (p - binary[:, None]) ** 2, np.diff(p, axis=1) ** 2
    losses = -np.log(np.take_along_axis(prefixes, classes[:, None, None], axis=2)[:, :, 0])
    after, before = prefixes[:, 1:], prefixes[:, :-1]
    return losses, (after * np.log(after / before)).sum(axis=2)


def ridge_observe(inputs, targets, fade, prior, precision, moment) -> tuple[np.ndarray, np.ndarray]:
    """Both anew. inputs: [m, K]; targets: [m]."""
    return fade * precision + (1 - fade) * np.diag(prior) + inputs.T @ inputs, fade * moment + inputs.T @ targets


def remember(ids, losses, weights, which, first, context) -> None:
    for slot in set(ids[which]):
        own = [i for i in which if ids[i] == slot]
        mean, row = np.mean(losses[own]), context[slot]
        row[2], row[3] = mean, mean if np.isnan(row[3]) else 0.9 * row[3] + 0.1 * mean
        row[first : first + weights.shape[1]] = weights[own[-1]]
