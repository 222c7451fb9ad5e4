"""What the benchmarks of published relations are made of."""
