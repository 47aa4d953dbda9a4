"""Training of the bundled tiny pair: corpus, tokenizer, target, distilled drafter, evaluation."""
