"""The contract's verbs, one to a file."""
