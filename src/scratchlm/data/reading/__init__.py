"""Read the records of files: text, JSON, JSON lines and Parquet, also packed."""
