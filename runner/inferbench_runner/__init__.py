"""Measures sweeps: in a pod of the cluster, or as a subprocess of the local mode."""
