"""A recipe from end to end: run (START HERE), the recipe itself, rounds."""
