"""What every stage is made of, and one folder per stage, in the order of a run."""
