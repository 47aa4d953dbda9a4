"""The nouns: what fronts, engine, scheduler, verifier and edge say to one another.

Structs cross process borders (msgspec) or the wire (wisp.wire); a `Session` lives in the engine.
Nothing here imports anything of wisp but its errors.
"""
