"""The road after training: a package for each station."""
