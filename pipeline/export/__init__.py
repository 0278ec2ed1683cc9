"""A store as HDF5 or as a folder of images; atomic creation of files and folders."""
