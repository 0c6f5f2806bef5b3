"""One trial: degradation, models, losses, metrics, training and evaluation."""
