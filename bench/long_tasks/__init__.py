"""Synthetic tasks that only long context can teach: `python -m bench.long_tasks FOLDER`."""
