"""What stage 01 is told besides how to draw: several models, a system prompt."""
