"""From a configuration to a learner. Only the paper's imports torch."""

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.learners.base import Learner
from autoemb_pipeline.learners.config import LearnerConfig
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.factory import check_budget, make_stream_learner, stream_tables
from autoemb_pipeline.learners.stream.learner import StreamLearner
from autoemb_pipeline.rows import AnySpec, RowStore


def learner_tables(config: LearnerConfig) -> tuple[AnySpec, ...]:
    """The tables the learner of this configuration keeps its rows in: its store is made with them, joined with the context's."""
    if isinstance(config, StreamConfig):
        return stream_tables(config)
    from autoemb_pipeline.learners.paper.factory import paper_tables  # noqa: PLC0415 - torch takes 1.5 s

    return paper_tables(config)


def check_learner(config: LearnerConfig) -> None:
    """Refuses what its fields alone do not show to be impossible.

    Raises:
        ConfigurationError: the memory budget cannot be kept.
    """
    if isinstance(config, StreamConfig):
        check_budget(config)


def make_learner(config: LearnerConfig, store: RowStore) -> Learner | StreamLearner:
    """A new learner with its initial parameters.

    Args:
        config: what to build.
        store: holds `learner_tables(config)`.

    Raises:
        ConfigurationError: the device is not there.
    """
    if isinstance(config, StreamConfig):
        return make_stream_learner(config, store)
    from autoemb_pipeline.learners.paper.factory import make_paper_learner  # noqa: PLC0415 - torch takes 1.5 s

    return make_paper_learner(config, store, resolve_device(config.device))


def resolve_device(name: str, *, uses_torch: bool = True) -> str:
    """The torch device of this name; `auto` is CUDA where there is a GPU, else the CPU; for a learner without torch always the CPU.

    Torch is imported for any but the CPU.

    Raises:
        ConfigurationError: torch knows no such device, or there is none, or the learner computes on the CPU only.
    """
    if name == "cpu" or (name == "auto" and not uses_torch):
        return "cpu"
    if not uses_torch:
        raise ConfigurationError(
            f"preset stream does not compute on device {name!r}",
            why="it learns event by event, each from what the one before it taught: a GPU finds nothing to do at once",
            remedy="use --device auto or cpu, or --preset residual",
        )
    import torch  # noqa: PLC0415 - takes 1.5 s

    has_cuda = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if has_cuda else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise ConfigurationError(f"device {name!r} is unknown", why=str(error).split("\n", 1)[0], remedy="use cpu or cuda") from error
    if device.type == "cuda" and not has_cuda:
        raise ConfigurationError(
            f"device {name!r} cannot be used: there is no CUDA device",
            why="torch finds no GPU or is the CPU build",
            remedy="use --device cpu, or install torch's CUDA build (README, Installation)",
        )
    return str(device)
