"""`plansmith demo`: a small model is built, served, asked and shown, with nothing but what is installed."""
