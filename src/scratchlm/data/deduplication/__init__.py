"""Find documents that repeat other documents, or that contain parts of an evaluation set."""
