"""What mode `fast` leaves out: points of the grid, and image tokens that are padding."""
