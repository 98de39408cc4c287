"""Large inputs through system shared memory instead of a socket, where client and server share a host.

Used automatically for inputs above a size, with a server at a loopback address that offers the extension. If the
server refuses, or has another /dev/shm (in a container), tensors travel in the request as usual. Regions are created
once and reused. Every client of a server can read the regions that are registered with it, since any request may name
them: pass `shared_memory=False` where the clients of a server must not see each other's inputs.
"""

from __future__ import annotations

from plansmith_client.shared_memory.policy import SharedMemoryPolicy

__all__ = ["SharedMemoryPolicy"]
