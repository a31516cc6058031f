"""The models of a service over HTTP: what answers for each version, and the routes to it."""
