"""Each command has one thin argparse module. It parses, calls one function, and prints."""
