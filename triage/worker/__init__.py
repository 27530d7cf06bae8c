"""The analysis worker: claims jobs, looks, commits the flag, then writes the words."""
