"""What training, evaluation and prediction share: scores, measures and thresholds."""
