"""Classes of whole texts, and of texts that grow."""
