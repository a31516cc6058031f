"""The service's descriptions of its own API."""
