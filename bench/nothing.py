"""A deploy that does nothing: what pyinfra itself takes to start, connect to all nodes and end."""
