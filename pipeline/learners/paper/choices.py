"""Names that the paper's configuration chooses between, and nothing that would import torch."""

from typing import Literal

Normalisation = Literal["batch", "layer", "none"]
Selection = Literal["soft", "hard"]
SoftScale = Literal["1/N", "1"]
PaperPrecision = Literal["bf16", "float32", "float64"]
