"""Named places where a test kills the process, to prove that a restart there is harmless.

``AUTOEMB_FAILPOINT=name:count`` sends SIGKILL to the process at the count-th passage of that name; ``name`` alone means the first.
Without the variable a failpoint is one comparison.
"""

import os
import signal
from collections import Counter

VARIABLE = "AUTOEMB_FAILPOINT"

_target, _, _count = os.environ.get(VARIABLE, "").partition(":")
_passages: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kills the process (SIGKILL: no cleanup, no flush) if the environment asked for it here; else does nothing."""
    if name != _target:
        return
    _passages[name] += 1
    if _passages[name] == int(_count or "1"):
        os.kill(os.getpid(), signal.SIGKILL)
