"""What the benchmark of learned bit-widths is made of."""
