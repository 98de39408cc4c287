"""Load any model of a running server with Locust, over gRPC and HTTP.

    locust -f perf/locustfile.py --model digits                                          web UI, both protocols
    locust -f perf/locustfile.py GrpcUser --model digits --headless -u 8 -r 8 -t 30s     gRPC alone, no UI

Nothing needs editing: inputs are made from the model's metadata, and each answer is compared with the one that the
server gave to the same request before the load began.
"""

import grpc.experimental.gevent as grpc_gevent

# Before a channel is opened: without it gRPC blocks the whole process, and Locust measures its own waiting.
grpc_gevent.init_gevent()

from plansmith_perf.locust_users import GrpcUser, HttpUser  # noqa: E402

__all__ = ["GrpcUser", "HttpUser"]
