"""Pictures of a training run: curves, confusion matrix, sheets of photos."""
