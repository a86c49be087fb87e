"""Each command has one small module, which parses the flags, calls the library, and prints."""
