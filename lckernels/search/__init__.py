"""Search in a long text by the merged hidden states of a short encoder: the parts of the command line."""
