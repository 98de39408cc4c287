"""What else a model could be served or run with, measured beside plansmith: `plansmith bench compare`."""
