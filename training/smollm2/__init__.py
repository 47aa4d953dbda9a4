"""How the drafter of SmolLM2-135M-Instruct was made; see README.md beside this file."""
