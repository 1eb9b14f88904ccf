"""`prefopt train-reward`: reward models and their figures."""
