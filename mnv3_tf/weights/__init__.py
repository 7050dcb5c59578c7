"""Published weights: read from other packages' files, and put into the network of this kit."""
