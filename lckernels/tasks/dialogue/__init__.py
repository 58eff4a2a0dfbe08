"""Dialogues of any length."""
