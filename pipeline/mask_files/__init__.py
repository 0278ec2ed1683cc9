"""Masks made elsewhere: JSON files, COCO files and label maps, found by an image's name, bounded in size, checked before use."""
