"""Runs benchmarks on Kubernetes: starts what each needs next, keeps its results, writes its status."""
