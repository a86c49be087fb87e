"""Convert models from and to other projects."""
