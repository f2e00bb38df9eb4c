"""neo_edge: takes a NEO-ov checkpoint to quantized engines and answers on a robot."""
