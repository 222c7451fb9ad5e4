"""What ``benchmarks/impq.py`` compares: widths of kernels, of layers, of the network."""
