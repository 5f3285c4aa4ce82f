"""How long steps tell how far they are."""

from collections.abc import Callable

# (stage, done, total): e.g. ("download", bytes so far, bytes in all or None where the server does not say)
Report = Callable[[str, int, int | None], None]


def silent(_stage: str, _done: int, _total: int | None) -> None:
    """A `Report` for nobody."""
