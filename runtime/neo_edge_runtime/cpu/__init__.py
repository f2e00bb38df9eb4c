"""The decoder in C++ of this package: what it computes, how its weights lie on disk, how it is built and called."""
