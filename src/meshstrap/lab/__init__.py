"""The embedded lab: bare nodes in containers, and their bundle built from package registries."""
