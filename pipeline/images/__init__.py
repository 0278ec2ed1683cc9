"""Images and archives from outside: listing, matching with LR files, decoding within bounds."""
