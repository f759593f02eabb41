"""The `inferbench` program: the same benchmarks without a cluster."""
