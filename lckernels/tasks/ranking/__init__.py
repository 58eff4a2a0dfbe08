"""The order of texts for a query: cross-encoders, and MaxSim over the states of tokens."""
