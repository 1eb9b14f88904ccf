"""Win rates of recorded answers against a baseline's, plain and length-controlled."""
