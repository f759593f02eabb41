"""The language of inferbench: spec, plan, result and summary, the same in a cluster and on one machine."""

__version__ = "0.1.0"
