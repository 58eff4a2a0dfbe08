"""Translation and summaries of whole texts."""
