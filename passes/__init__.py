"""ONNX -> ONNX. Needs onnx_ir and numpy; imports neither torch nor ONNX Runtime."""
