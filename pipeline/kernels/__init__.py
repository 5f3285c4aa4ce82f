"""The stream preset's arithmetic in compiled code: pure functions over arrays, which know of no store, no broker and no record.

Shape legend: F fields (0 users, 1 items, then further categorical ones), B interactions of a mini-batch, n distinct ids of a field, N
spaces and blocks, D numbers of an embedding, P = F(F-1)/2 pairs of fields in the order (0, 1), (0, 2), …, (1, 2), …, C outputs (1 binary, 5
rating), Z dense inputs, M = Z + P·N inputs of the dense weights, K = 35 + N controller inputs, Q parameters of a controller, W_f numbers of
a context row.

Arrays are C-contiguous and writable; float64, int64 unless told. Rows are float32 in the product (float64 works too); all sums are float64.

State, by slots of slabs that the caller owns and lends (`State`):
- `rows[f]` [slots, D + N + 2] = embedding | bias | N block variances | bias variance. A new row: `rows.hashed_uniform` per block,
0, the configured variances. Separate tables are blocks too: `ends` are then the running sums of the dimensions, and `nested` is false.
- `held[f]` [slots, N] int8: ABSENT takes no part, BORROWED takes part and never learns, HELD learns. The bias always learns.
- `contexts[f]` [slots, W_f], new ones from `blank_context`: count, last time (s), previous loss, fading loss | label statistics (users 7,
items 5, further fields none) | N previous weights | class counts (rating task). The weights begin at `weights_at(f)`.
- `totals` [8], new from `blank_totals`: labels learnt, their sum, the run's fading loss, class counts.
Only the slots named in `Interactions.slots` are read or written, so these are the dirty ones.

A mini-batch, in this order:
1. `slots[f]` [n] of the distinct ids, `local` [F, B] positions among them: `Interactions`. Fresh `Predicted` arrays; columns of `inputs`
behind the context's (16, with `quadratic` 107) up to Z are the caller's, for numeric features.
2. `uses` are what the method fixes, ones for FSE and where dimensions are searched; a block with use 0 does not learn. Where they are
searched (`Model.searched`): `weigh`, `see`, `choose` → `choices` and `foreseen`, and in `Memory` what ids remember that will get blocks.
3. `operations(times, mode)` → `run(operations, interactions, state, model, predicted, memory)`. `Model.weights` [C, M] are the dense
weights, the last P·N of them the gains of the products: 1 (times `levels`) at the start, the others 0. Any other order of PREDICT and LEARN
serves late labels: an interaction predicted earlier comes with what `Predicted` kept of it (`base`; the rest for step 4), its uses, and no
PREDICT. LEARN_ROWS learns a remembered event into rows alone. `observe` is the same without rows, for the paper's network.
4. With the m interactions learnt (`which`): `newton_observe(inputs, which, probabilities, …)`, `mixture_slopes` while `Model.weights` still
are those of the predictions, then `newton_descend`. H starts as the diagonal of ridges, repeated for each output.
5. Where dimensions are searched: `validate`, `learn` per field, `pack` what is to be remembered, `tally` the bytes, and `judge` some ids.
6. References: `predict_references` before, and with `features_of(inputs)`: `newton_observe`, and every 500 events `newton_descend`, after.
7. Per field `remember`, and once `remember_run`, with the losses of the predictions.

Everything releases the GIL as a whole, and its bits depend on no number of threads. `compile_all` compiles
what the product calls; `python -m autoemb_pipeline.kernels` does it by hand, `make setup` for everyone. Importing this package imports
numba (.4 s), torch never.
"""

from autoemb_pipeline.kernels.compiling import cache_directory, fingerprint
from autoemb_pipeline.kernels.events import observe, run
from autoemb_pipeline.kernels.holding import Measured, pack, tally, unpack, weigh
from autoemb_pipeline.kernels.layout import (
    ABSENT,
    BORROWED,
    CONTEXT_FEATURES,
    HELD,
    LABEL_WIDTHS,
    LABELS_AT,
    LEARN,
    LEARN_ROWS,
    LEARN_STATISTICS,
    PREDICT,
    QUADRATIC_FEATURES,
    Interactions,
    Memory,
    Model,
    Operations,
    Predicted,
    State,
    blank_context,
    blank_totals,
    no_memory,
    weights_at,
)
from autoemb_pipeline.kernels.logits import adagrad, adam
from autoemb_pipeline.kernels.newton import newton_descend, newton_observe
from autoemb_pipeline.kernels.references import features_of, predict_references
from autoemb_pipeline.kernels.rounding import round_rows
from autoemb_pipeline.kernels.schedule import earlier_in_batch, operations
from autoemb_pipeline.kernels.search import (
    FIXED_INPUTS,
    mixture_slopes,
    remember,
    remember_run,
    validate,
)
from autoemb_pipeline.kernels.warm import compile_all, is_compiled
from autoemb_pipeline.kernels.worth import (
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

__all__ = [
    "ABSENT",
    "BORROWED",
    "CONTEXT_FEATURES",
    "FIXED_INPUTS",
    "HELD",
    "LABELS_AT",
    "LABEL_WIDTHS",
    "LEARN",
    "LEARN_ROWS",
    "LEARN_STATISTICS",
    "PREDICT",
    "QUADRATIC_FEATURES",
    "Costs",
    "Evidence",
    "Expectation",
    "Interactions",
    "Measured",
    "Memory",
    "Model",
    "Operations",
    "Predicted",
    "Seen",
    "State",
    "adagrad",
    "adam",
    "blank_context",
    "blank_totals",
    "cache_directory",
    "choose",
    "compile_all",
    "correct",
    "earlier_in_batch",
    "features_of",
    "fingerprint",
    "given_up",
    "in_panel",
    "is_compiled",
    "judge",
    "learn",
    "mixture_slopes",
    "newton_descend",
    "newton_observe",
    "no_memory",
    "observe",
    "operations",
    "pack",
    "predict_references",
    "promoted",
    "remember",
    "remember_run",
    "round_rows",
    "run",
    "see",
    "tally",
    "unpack",
    "validate",
    "weigh",
    "weights_at",
]
