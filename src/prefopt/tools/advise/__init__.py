"""What one's own pairs are like, and how methods did on such data in the diagnostic suite."""
