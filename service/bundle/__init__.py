"""What is served: a folder of files that a manifest vouches for."""
