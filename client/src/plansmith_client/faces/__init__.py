"""What users hold: clients, models, sequences, batches and streams. The blocking ones are generated."""
