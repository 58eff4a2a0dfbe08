"""Synthetic tasks that only long context can teach, trained from scratch: `python -m bench.long_tasks FOLDER`."""
