"""The zoo: every known way in which systems of this kind fail, planted in the engine, and what catches it."""
