"""Pictures, for all families that work on them: `images` from file to file, `frames` step by step, `fitting` sizes."""
