"""The verb that says what features stand for: explained and scored by a language model, from the lake."""
