"""Helm's own rendering, in the environment of the tools: python render.py CHART VALUES > JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import helm_python  # type: ignore[import-not-found]  # of the environment of the tools
import yaml

chart_path, values_path = sys.argv[1:]
values = yaml.safe_load(Path(values_path).read_text())
try:
    with helm_python.Chart.load(chart_path) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values=values, name="try", namespace="serving")
except helm_python.HelmError as error:
    sys.exit(str(error))
json.dump(rendered, sys.stdout)
