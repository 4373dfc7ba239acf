"""From any form of checkpoint to any other: what `bert4keras3 convert` does, step by step.

`origins` opens what is converted, `building` makes the model, `outputs` says what it has no place
for, `targets` writes it, `companions` copies the tokenizer, `verifying` reads all back. `forms`
needs no Keras, so nothing is imported here.
"""
