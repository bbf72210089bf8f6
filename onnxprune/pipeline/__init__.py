"""The one order of steps, from a file to a proved, smaller file."""
