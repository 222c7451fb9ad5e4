"""What the benchmarks of post-training quantization are measured on: drawn, trained, no download."""
