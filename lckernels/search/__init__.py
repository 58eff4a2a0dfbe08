"""Search in long texts: saved hidden states, passages, and their vectors."""
