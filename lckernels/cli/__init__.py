"""The command `lckernels`: entry point in main.py, one module for each command in commands/."""
