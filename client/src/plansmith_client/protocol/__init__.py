"""What may be said to a server and how it answers: operations, codecs, results, metadata, statistics."""
