"""RRDB and U-Net, and how a configuration builds them."""
