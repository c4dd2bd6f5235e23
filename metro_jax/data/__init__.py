"""The TensorFlow side: vocabulary, preprocessors, feature converters and prepared records for seqio."""
