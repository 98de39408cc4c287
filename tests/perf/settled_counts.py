"""What a server has counted, read when it has caught up with its answers."""

from __future__ import annotations

import time


def settled(count):
    """What a function counts on a server, once that has been the same for a fifth of a second.

    Triton counts a request after its answer has left: whoever asks at once may still miss the last one.
    """
    counted, since = count(), time.monotonic()
    while time.monotonic() - since < 0.2:
        time.sleep(0.02)
        if (now := count()) != counted:
            counted, since = now, time.monotonic()
    return counted
