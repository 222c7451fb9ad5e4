"""What the benchmarks of published relations share."""
