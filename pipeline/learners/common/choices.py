"""Names that configurations choose between, and nothing that would import torch."""

from typing import Literal

Activation = Literal["tanh", "relu"]
OptimiserName = Literal["sgd", "adagrad", "adam"]
Preconditioner = Literal["exact", "detached", "sgd"]
