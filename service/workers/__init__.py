"""The worker processes of one service, and their connections."""
