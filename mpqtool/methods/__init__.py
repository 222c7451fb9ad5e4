"""Methods find the bit-widths and scales of a network. They know quantizers and data, and no ONNX."""
