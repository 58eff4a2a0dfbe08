"""What lckernels adds to transformers models; nothing here is imported by `import lckernels`."""
