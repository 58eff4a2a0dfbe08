"""Code that backends share: tables, rows and arguments of compiled kernels."""
