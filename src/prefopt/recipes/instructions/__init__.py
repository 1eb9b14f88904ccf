"""Prompts with constraints that a program can check: the second task that comes with the package."""
