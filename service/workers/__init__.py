"""The processes of one service, and their connections."""
