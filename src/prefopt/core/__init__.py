"""What everything stands on: errors, settings."""
