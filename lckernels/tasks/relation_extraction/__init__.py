"""Relations between entities of a whole text, and the graph of them."""
