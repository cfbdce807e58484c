"""The files family: uploads scanned, checked and worked on. See docs/families/files.md."""
