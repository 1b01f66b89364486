"""A student that begins from random weights, in a recipe's TOML."""

from __future__ import annotations


def beginner(context: int) -> str:
    """Two small layers of llama's, for texts of at most so many tokens."""
    return f"""
[student.initialise.architecture]
model_type = "llama"
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = {context}
"""
