"""Large tensors through system shared memory instead of a socket, where client and server share a host.

Used automatically for inputs above a size, and for outputs whose size the metadata tells, with a server at a loopback
address that offers the extension. If the server refuses, or has another /dev/shm (in a container), tensors travel in
the messages as usual. Regions are created once and reused; that of a request that was given up is kept until the
server no longer uses it. Every client of a server can read the regions that are registered with it, since any request
may name them: pass `shared_memory=False` where the clients of a server must not see each other's tensors.
"""
