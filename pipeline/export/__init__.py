"""A store as HDF5 or as a folder of images; new files and folders that appear whole or not at all."""
