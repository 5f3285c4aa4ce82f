"""Named places where a test kills the process, to prove that a restart there is harmless.

``AUTOEMB_FAILPOINT=name:count`` sends SIGKILL to the process at the count-th passage of that name; ``name`` alone means the first.
Without the variable a failpoint is one comparison.
"""

import os
import signal

VARIABLE = "AUTOEMB_FAILPOINT"

_target = ""
_left = 0


def arm(target: str) -> None:
    """Sets ``name:count`` by hand, for a process that was forked and so cannot be given an environment."""
    global _target, _left  # one per process, as the environment variable is
    name, _, count = target.partition(":")
    _target, _left = name, int(count or "1")


def failpoint(name: str) -> None:
    """Kills the process (SIGKILL: no cleanup, no flush) if it was asked for here; else does nothing."""
    global _left  # noqa: PLW0603  # see `arm`
    if name != _target:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get(VARIABLE, ""))
