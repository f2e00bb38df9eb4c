"""How fast a bundle answers: timing in turn, the machine's read bandwidth, decoding, prefill and an image's stages."""
