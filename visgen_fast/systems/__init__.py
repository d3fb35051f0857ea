"""What is trained: networks with their loss and the way to draw with them, one file each."""
