"""Figures that commands draw, by matplotlib."""
