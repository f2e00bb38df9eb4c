"""Builds the bundle's graphs into TensorRT engines; `builder_api.py` lists every name of TensorRT that is touched."""
