"""The tools that make bundles. They import the service's bundle and engine, never the reverse."""
