"""`samdiff infer`: images of any size in tiles, image files in and out, ONNX."""
