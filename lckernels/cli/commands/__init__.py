"""One module for each command, with a function of the same name; the folder is the list of commands."""
