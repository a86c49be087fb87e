"""Clean documents: steps that change or drop texts, and the accounting of every document."""
