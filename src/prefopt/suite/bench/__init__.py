"""Tuning and the table over lineages: settings, runs, statistics, tables."""
