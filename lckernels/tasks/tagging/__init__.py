"""Entities: the best labels of a whole text under the scheme of its labels."""
