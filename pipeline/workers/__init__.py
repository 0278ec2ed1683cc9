"""The mask stage on several processes or machines: a Dask cluster, samdiff's own local workers, and the tasks that workers run."""
