"""Images to train on, and the order they come in."""
