"""The runtime's verbs, one to a file; heavy imports wait until a verb runs."""
