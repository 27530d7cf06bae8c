"""Labelled studies as material: labels, images, divisions by patient, embeddings."""
