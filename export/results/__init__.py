"""Results of benchmarks: kept as JSON lines, compared, gated and shown."""
