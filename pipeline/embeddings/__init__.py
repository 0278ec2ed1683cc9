"""Image embeddings of the mask engine's encoders, kept as files, so that another grid or threshold needs no encoder."""
