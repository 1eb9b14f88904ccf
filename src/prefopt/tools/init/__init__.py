"""`prefopt init`: a commented recipe that fits a model, a data file and this machine."""
