"""Labelled photos: class folders and tables of photos, as people keep them."""
