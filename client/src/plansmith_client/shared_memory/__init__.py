"""Large inputs through system shared memory instead of a socket, where client and server share a host.

Used by itself: for inputs above a size, with a server at a loopback address that offers the extension. Where the server
refuses, or turns out to be elsewhere (a container with a /dev/shm of its own), requests go the usual way and nothing
is said. Regions are made once and used again.
"""

from __future__ import annotations

from plansmith_client.shared_memory.policy import SharedMemoryPolicy

__all__ = ["SharedMemoryPolicy"]
