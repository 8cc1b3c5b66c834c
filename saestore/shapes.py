"""The vocabulary of axes: every shape annotation in saestore uses these names.

Shapes are written with jaxtyping, such as `Float[Tensor, "row d_in"]`, and checked on every call
while tests run. A test holds every annotation to this list.
"""

AXES = {
    "row": "one activation vector: one token at one hookpoint",
    "context": "one token window",
    "position": "a token's place in its context",
    "segment": "a stretch of one document inside a context",
    "document": "one text of the corpus",
    "batch": "contexts in one forward pass",
    "hook": "one hookpoint",
    "head": "one hookpoint of a crosscoder",
    "layer": "one block of the language model",
    "d": "width of a hookpoint",
    "d_in": "width of the input hookpoint",
    "d_out": "width of the output hookpoint",
    "d_model": "width of the residual stream",
    "d_sae": "features of a dictionary",
    "k": "features kept on one row",
    "feature": "one feature",
    "rank": "rank of a linear map",
    "firing": "one non-zero (feature, context, position, value)",
    "pair": "one feature in one context where it fires",
    "example": "one context shown for one feature",
    "positive": "one example in which a feature fires",
    "negative": "one example in which it does not",
    "resample": "examples drawn with replacement",
    "moment": "one sum of powers or products",
    "byte": "one byte of text",
    "vocab": "the tokenizer's vocabulary",
    "chunk": "inner chunk of a stored array",
    "shard": "one file of a stored array",
    "source": "one store of a mixture",
    "unit": "neighbouring rows that are read together",
    "window": "rows mixed in memory at once",
    "bin": "histogram bin",
    "block": "documents packed together",
}
"""Axis name to meaning."""
