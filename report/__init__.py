"""`samdiff report`: stores, runs and evaluations as one HTML page that needs no network."""
