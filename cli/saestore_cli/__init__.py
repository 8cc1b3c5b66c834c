"""The command line: parse, validate, one library call, render."""
