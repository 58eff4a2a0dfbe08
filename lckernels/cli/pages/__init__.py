"""Pages in HTML that show the results of a task: one file each, which requires no network."""
