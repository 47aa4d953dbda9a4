"""The production verifier: vLLM behind `wisp.verifier.base.Verifier`. vLLM is imported here alone.

verifier    sessions as resident vLLM requests, one EngineCore step for each batch
scheduler   vLLM's scheduler, told by WISP who takes part with how many tokens
sampler     law 1 inside vLLM's workers: the choice of wisp.sampling
options     vLLM's engine arguments: what WISP owns, what passes through
versions    the versions that are supported, and every name that differs between them
"""
