"""The command lines: one file a command, the parser that they share, and one clear line for what went wrong."""
