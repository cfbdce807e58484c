"""What handlers talk to outside of Redis. Families share these; they do not import each other."""
