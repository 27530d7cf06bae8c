"""Where a bundle found its evidence, and whether such a map says anything true."""
