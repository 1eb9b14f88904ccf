"""Preference optimization as one pipeline: sample, judge, rank, select, weigh, train, evaluate, report."""

__version__ = "0.2.0"
