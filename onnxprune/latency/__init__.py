"""Predicts the time of a pruned model from widths, by what cut copies of it took on the target."""
