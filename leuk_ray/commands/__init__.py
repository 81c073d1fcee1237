"""The commands, by what they work on; everything heavy is imported inside a command."""
