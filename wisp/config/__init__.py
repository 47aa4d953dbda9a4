"""Every setting, its default and its check; read from a file, the environment and flags."""

from wisp.config.edge_config import (
    DrafterSettings,
    EdgeConfig,
    EdgeTls,
    PowerSettings,
    server_addresses,
)
from wisp.config.loading import flags_of, load
from wisp.config.sections import (
    SMOLLM2,
    TINY,
    ApiSettings,
    EngineKind,
    Listen,
    LocalPath,
    PaddingSettings,
    Settings,
    TracingSettings,
)
from wisp.config.server_config import (
    EngineSettings,
    ProfileConfig,
    SchedulingSettings,
    ServerConfig,
    ServerTls,
    SloClass,
)

__all__ = [
    "SMOLLM2",
    "TINY",
    "ApiSettings",
    "DrafterSettings",
    "EdgeConfig",
    "EdgeTls",
    "EngineKind",
    "EngineSettings",
    "Listen",
    "LocalPath",
    "PaddingSettings",
    "PowerSettings",
    "ProfileConfig",
    "SchedulingSettings",
    "ServerConfig",
    "ServerTls",
    "Settings",
    "SloClass",
    "TracingSettings",
    "flags_of",
    "load",
    "server_addresses",
]
