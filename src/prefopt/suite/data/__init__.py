"""Trajectory banks and the tables of pairs drawn from them."""
