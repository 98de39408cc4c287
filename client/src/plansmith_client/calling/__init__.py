"""What a call does, once for all faces: attempts, retries, circuit breaker, servers, observers."""
