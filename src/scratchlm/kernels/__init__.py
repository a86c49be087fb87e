"""Fast twins of definitions in `functional`, where torch has no fast one."""
