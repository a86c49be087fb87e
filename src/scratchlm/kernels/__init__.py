"""Fast versions of definitions in `functional` for which torch has no fast function."""
