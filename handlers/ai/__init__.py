"""The ai family. `tasks` asks a model and checks its reply against a schema, `endpoint` speaks to it, `budget` keeps
what was used and what may be. ``worker`` ties the family together.
"""
