"""The mask stage on several processes or machines: a Dask cluster, our own local workers, and what a worker is told to do."""
