"""Reading and writing models: external data, staged writes, hashes."""
