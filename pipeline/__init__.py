"""From images to shards, once per data set. Rooms from the top; each imports only rooms below it: workers, prepare, masks, sam, export, stream, shards, download, images, degrade, encode, storage."""
