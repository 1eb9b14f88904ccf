"""Packaged recipes and the task that comes with the package."""
