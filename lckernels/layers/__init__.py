"""The command explain: what lckernels.patch would do to each attention layer, and what that saves."""
