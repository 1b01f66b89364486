"""What is made, in which order."""
