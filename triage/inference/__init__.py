"""Arrays in, numbers and text out: bundles, encoder, classifier, captioner. Knows no SQL."""
