"""What is measured: shapes with their FLOPs and bytes, the bundled texts, the models."""
