"""The models of a service: what lies in their folders, and which versions are in memory."""
