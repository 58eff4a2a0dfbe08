"""Results of commands as printed lines and as JSON objects."""
