"""Fixtures of the tests of models."""

from training_rows import rows

__all__ = ["rows"]
