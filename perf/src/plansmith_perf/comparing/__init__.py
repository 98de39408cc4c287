"""`plansmith bench compare`: plansmith measured against other ways to serve or run a model."""
