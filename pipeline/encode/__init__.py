"""Masks as runs and tables, and the structural encoding E_SAM. Pure."""
