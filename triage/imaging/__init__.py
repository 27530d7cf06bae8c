"""Pixels: stored objects to values, values to named renderings, in processes that may die.

Owns decoding (dataset, codecs, decode, values), rendering (volume, resize, views) and the pool
of decoder processes. Knows no SQL, no configuration file and no model.
"""
