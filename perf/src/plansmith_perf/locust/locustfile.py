"""Load any model of a running server with Locust, over gRPC and HTTP.

    plansmith locust --model digits                                               web UI, both protocols
    plansmith locust --model digits --protocol grpc --headless -u 8 -r 8 -t 30s   gRPC alone, no UI

Nothing needs editing: inputs are made from the model's metadata or come from a file, and each answer is compared with
that of the idle server or with the one that a golden file says. `plansmith locust --help` lists the options.
"""

import grpc.experimental.gevent as grpc_gevent

# Before a channel is opened: without it gRPC blocks the whole process, and Locust measures its own waiting.
grpc_gevent.init_gevent()

from plansmith_perf.locust.plugin import install  # noqa: E402
from plansmith_perf.locust.users import GrpcUser, HttpUser  # noqa: E402

__all__ = ["GrpcUser", "HttpUser"]

install()
