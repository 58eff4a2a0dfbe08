"""Answers to questions: one search over the scores of a whole text."""
