"""The tasks: each file generates documents from a seed, with evidence at a known place."""
