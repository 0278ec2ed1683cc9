"""`samdiff export-model`: models for other runtimes and other programs, and models in ONNX files that are run here."""
