"""WISP: distributed speculative serving of large language models under per-session SLOs."""

__version__ = "0.1.0"
