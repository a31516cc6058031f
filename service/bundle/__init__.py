"""The bundle: a folder with a manifest and the files that the manifest names, which is served."""
