"""Drafters on llama.cpp; `make test-llama` builds the binding once and runs them.

Without it nothing here is collected.
"""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("llama_cpp") else ["test_*.py"]
