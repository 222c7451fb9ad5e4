"""Files -> facts. Needs ONNX Runtime and numpy; imports no torch."""
