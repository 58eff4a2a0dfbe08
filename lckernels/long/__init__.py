"""Encoders that read sequences longer than their positions: LongEncoder, TextEncoder."""
