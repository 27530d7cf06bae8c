"""A DICOM triage daemon for radiology: images in, priority, findings and captions out."""
