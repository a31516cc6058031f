"""Access: keys and their scopes, the names of the service, and the pages that may call it."""
