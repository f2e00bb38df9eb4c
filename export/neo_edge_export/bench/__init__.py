"""`neo-edge bench`, and what it measures beside the runtime: the PyTorch reference, and more ways to read memory."""
