"""What is no stage: checks of data and judges, inspection, merging, reward models, drawings of losses."""
