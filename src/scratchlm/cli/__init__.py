"""One thin argparse module a command: parse, call one function, print."""
