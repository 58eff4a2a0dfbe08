"""Models that read longer texts than they were built for."""
