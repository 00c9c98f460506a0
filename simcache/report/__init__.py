"""Figures: the only rooms that import matplotlib."""
