"""Training of recognition networks: the corpora they learn from, the losses, and the run (Section 6.1 of the paper)."""
