"""Fast twins of what `functional` defines, where torch has none that is as fast."""
