"""From text to records of token ids: corpora and vocabularies. No TensorFlow, so that many small processes can do it."""
