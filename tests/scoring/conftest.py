"""Fixtures of the tests of scoring."""

from training_rows import rows

__all__ = ["rows"]
