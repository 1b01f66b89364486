"""Tensors: DeepSeek-V3's architecture and the two questions one asks a language model."""
