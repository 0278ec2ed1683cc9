"""From shards to images. Rooms from the top; each imports only rooms below it: training, evaluation, inference, checkpoints, networks, diffusion."""
