"""Models of other projects, both ways."""
