"""Names of the dimensions that a run of the graphs may choose; building engines reads them without onnx."""

BATCH, SEQUENCE, CAPACITY, LOGITS_ROWS = "batch", "sequence", "capacity", "logits_rows"
PATCHES, VISUAL_TOKENS = "patches", "visual_tokens"
