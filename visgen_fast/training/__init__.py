"""Training: data, the loop, the moving average, checkpoints and what a run shows of itself."""
