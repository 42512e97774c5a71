"""Python runs this in each of the hosts' processes before anything else; see `tests/chaos/points.py`."""

import os
import sys

if "PAGEPACK_INTERNAL_CLOCK" in os.environ:
    from tests.chaos.points import shift_clock

    shift_clock(os.environ["PAGEPACK_INTERNAL_CLOCK"])

if "PAGEPACK_INTERNAL_KILL" in os.environ:
    from tests.chaos.points import arm, fork_nothing

    if "workers" in sys.orig_argv:
        arm(os.environ["PAGEPACK_INTERNAL_KILL"], sys.orig_argv[-1])
    elif "worker" in sys.orig_argv:
        arm(os.environ["PAGEPACK_INTERNAL_KILL"], "host")
        fork_nothing()
