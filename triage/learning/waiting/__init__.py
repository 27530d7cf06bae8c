"""What a bundle does to waiting, in a simulated reading room."""
