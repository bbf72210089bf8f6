"""What is measured of a model: accuracy, agreement, time."""
