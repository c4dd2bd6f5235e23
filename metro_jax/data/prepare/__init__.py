"""From text to records of token ids: corpora and vocabularies; without TensorFlow, for many small processes."""
