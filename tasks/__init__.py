"""The bench where rows meet tensors: one file a verb."""
