"""Runs a bundle's TensorRT engines: `backend.py` is the way in, `device.py` and `engine.py` are what it stands on."""
