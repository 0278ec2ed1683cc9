"""Bytes of an image file -> pixels with all that its file states of them, or one reason why not. The same for every command."""
