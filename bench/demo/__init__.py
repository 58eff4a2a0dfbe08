"""`make demo`: a search in a book, perplexity with a sliding window, an answer of a reader trained here."""
