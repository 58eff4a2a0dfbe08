"""`make demo`: a search in a book, and perplexity with a sliding window."""
