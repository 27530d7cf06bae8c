"""Bytes in: C-STORE and watched folders, through one door."""
