"""Runs benchmarks on Kubernetes. Empty until the operator lands; the name and its import rules are already kept."""
