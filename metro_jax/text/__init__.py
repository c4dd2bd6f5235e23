"""Text side: normaliser and tokenizer. Pure Python and sentencepiece; no JAX, TensorFlow or torch."""
