"""Fixtures of the tests of training."""

from training_rows import rows

__all__ = ["rows"]
