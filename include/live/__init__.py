"""The live address, and the servers behind it."""
