"""Figures of 08-evaluate and of reward models: accuracies, unpaired data, calibration."""
