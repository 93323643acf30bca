"""What did pruning cost and gain? Measurements, figures, a page and a terminal summary, read from a run's files."""
