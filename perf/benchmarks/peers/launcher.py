"""`python launcher.py PROGRAM ARGUMENT...`: becomes the program, with the signals as a shell would give them.

The supervisor ignores what it is sent, and what it starts inherits that: a peer without handlers of its own could not
be asked to stop.
"""

import os
import signal
import sys

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - no shell on purpose
