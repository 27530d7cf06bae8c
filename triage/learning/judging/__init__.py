"""How good a bundle is on labelled studies, and where it may flag."""
