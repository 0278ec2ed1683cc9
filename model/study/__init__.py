"""`samdiff study`: many trainings of the same data with several seeds, scored and compared with a reference."""
