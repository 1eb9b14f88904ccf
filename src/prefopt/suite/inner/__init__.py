"""Preference training of one policy: methods, losses as traced functions, the training itself, held-out signals."""
