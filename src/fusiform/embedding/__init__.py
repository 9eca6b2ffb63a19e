"""What a classifier sees in images, as vectors: kept in files, searched, and made classes of."""
