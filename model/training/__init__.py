"""`samdiff train`: both stages, the loop, exact resume, several processes, validation."""
