"""Read and write the files of tokenizers."""
